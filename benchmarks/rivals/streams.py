"""Labelled streams of questions, and the counts of right and wrong answers to one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stream:
    """Questions in the order they arrive; two with the same id have the same answer."""

    name: str
    items: list[tuple[str, str]]


def read_stream(path: Path, limit: int | None = None) -> Stream:
    """From JSON lines with `question` and `answer_id`; at most the first `limit`."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:limit], 1):
        try:
            row = json.loads(line)
            items.append((str(row["question"]), str(row["answer_id"])))
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f'{path}, line {number}: wanted {{"question": ..., "answer_id": ...}}, got '
                f"{line[:80]!r} ({error})"
            ) from None
    return Stream(path.stem, items)


def counted(stream: Stream, served: list[str | None]) -> dict[str, Any]:
    """`missed` are questions whose answer was there, `new` those whose answer was not.

    What is not served is stored. A wrong answer is one of another id, whether or not the right one
    was there; shares are of all requests, the error is of those served.
    """
    counts = {"right": 0, "wrong": 0, "missed": 0, "new": 0}
    stored: set[str] = set()
    for (_, answer_id), found in zip(stream.items, served, strict=True):
        if found is not None:
            counts["right" if found == answer_id else "wrong"] += 1
        else:
            counts["missed" if answer_id in stored else "new"] += 1
            stored.add(answer_id)
    answered = counts["right"] + counts["wrong"]
    return {
        **counts,
        "served": round(answered / len(stream.items), 4),
        "error": round(counts["wrong"] / answered, 4) if answered else None,
    }
