"""Dates and times in a text: the commonest reason why a cache never finds anything."""

import re

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_WEEKDAY = r"(?:Mon|Tues?|Wed(?:nes)?|Thu(?:rs)?|Fri|Sat(?:ur)?|Sun)(?:day)?\b"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:19|20)\d\d"
_TIME = r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?:\s?[AaPp]\.?[Mm]\b\.?)?"
_ZONE = r"(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d)\b)?"

_WRITTEN = "|".join(
    (
        rf"{_YEAR}-(?:0\d|1[0-2])-{_DAY}(?:[T ]{_TIME}{_ZONE})?",
        rf"(?:{_WEEKDAY},? )?{_MONTH} {_DAY}(?:st|nd|rd|th)?(?:,? {_YEAR})?",
        rf"(?:{_WEEKDAY},? )?{_DAY}(?:st|nd|rd|th|\.)?(?: of)? {_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH},? {_YEAR}",
        rf"{_DAY}([./]){_DAY}\1{_YEAR}",
        rf"{_YEAR}([./]){_DAY}\2{_DAY}",
        rf"{_TIME}{_ZONE}",
        r"(?:1[0-2]|[1-9])\s?[AaPp]\.?[Mm]\b",
        r"1[5-9]\d{8}(?:\d{3})?",  # seconds or milliseconds since the epoch
        rf"(?:[Tt]oday|[Nn]ow)(?: is|'s|:)? {_WEEKDAY}",
    )
)
_FOUND = re.compile(rf"(?<![\w.:/-])(?:{_WRITTEN})(?![\w/-])")


def find_date(text: str) -> str | None:
    """The first part of `text` that looks like a date or a time, None without one.

    Only a hint is made of it, so that it may err: a month needs a day or a year, numbers in a row
    need a year, and a time its colon or its am or pm.

    >>> find_date("You are helpful. It is 2026-11-25T14:03:00Z.")
    '2026-11-25T14:03:00Z'
    """
    found = _FOUND.search(text)
    return found.group() if found else None
