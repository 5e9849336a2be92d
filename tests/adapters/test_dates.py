"""What in a system prompt looks like a date or a time, and what does not."""

import pytest
from semcache_core.adapters.conversation import find_date


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-25",
        "2026-11-25 14:03",
        "2026-11-25T14:03:59.123Z",
        "2026-11-25T14:03:59+01:00",
        "Wednesday, November 25",
        "Wednesday, November 25, 2026",
        "Nov 25th, 2026",
        "25 November 2026",
        "25. November 2026",
        "25th of November",
        "Wed, 25 Nov 2026",
        "November 2026",
        "11/25/2026",
        "25.11.2026",
        "2026/11/25",
        "14:03",
        "14:03:59",
        "2:03 PM",
        "2:03 p.m.",
        "14:03 UTC",
        "2 pm",
        "1795615200",
        "1795615200123",
        "today is Wednesday",
        "Today: Wed",
    ],
)
def test_a_date_or_time_is_found_whole_among_other_text(written: str) -> None:
    assert find_date(written) == written
    assert find_date(f"Be brief. ({written}) Say 3 things.") == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "You are a helpful assistant with 25 tools.",
        "You may answer in 3 sentences. March on.",
        "Call 555-1234-5678 or order 20261125.",
        "semcache 1.25.4 runs on 10.0.25.11 and 192.168.10.25",
        "We are open from Monday to Friday.",
        "Sunday roast is our specialty.",
        "A ratio of 3/4, a score of 12:75, 1/2/3.",
        "https://example.org/2026/11/25/news",
        "Mix 4:1 and keep the id 2026-11-25-b7.",
    ],
)
def test_other_numbers_and_words_are_no_date(text: str) -> None:
    assert find_date(text) is None


def test_the_first_date_is_the_one_that_is_named() -> None:
    assert find_date("From 2026-11-25, 14:03, until 2027-01-01.") == "2026-11-25"
