"""The questions written by hand: the files are whole, and a served trap counts as wrong."""

from collections import Counter

import by_hand_questions as study
import pytest


def test_the_files_hold_what_the_page_says() -> None:
    assert len(study.rows("traps")) == len(study.rows("rewordings")) == 200
    assert len({row["kind"] for row in study.rows("traps")}) == 39
    assert len({row["stored"] for row in study.rows("rewordings")}) == 40
    kinds = Counter(row["kind"] for row in study.rows("harmless"))
    assert kinds == dict.fromkeys(("typo", "emoji", "greeting", "name"), 20)
    for name in ("traps", "rewordings", "harmless"):
        pairs = [(row["stored"], row["asked"]) for row in study.rows(name)]
        assert len(set(pairs)) == len(pairs) and all(one != other for one, other in pairs)


@pytest.mark.slow
def test_a_served_trap_is_wrong_and_a_served_rewording_right() -> None:
    asked = [
        {
            "kind": "same",
            "stored": "How do I reset my password?",
            "asked": "how do I reset my password",
        },
        {"kind": "far", "stored": "Where is Basel?", "asked": "What is a good soup?"},
    ]
    found = study.asked_of(asked, 0.05, by="kind")
    assert found["all"] == {"asked": 2, "right": 1, "missed": 1}
    assert found["same"] == {"asked": 1, "right": 1} and found["far"] == {"asked": 1, "missed": 1}
    assert study.asked_of(asked, 0.05, own_is_right=False)["all"]["wrong"] == 1
