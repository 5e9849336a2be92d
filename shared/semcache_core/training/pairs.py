"""Pairs of questions with a label, read from JSON lines."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semcache_core.errors import TrainingError

_EXAMPLE = '{"prompt": "...", "other": "...", "same_answer": 1}'


@dataclass(frozen=True)
class Pair:
    """Two questions and whether one answer serves both.

    `same_answer` is 1 or 0, or what lies between when judges disagreed. `domain` names the field
    the questions come from; calibration weighs domains equally and keeps its bounds in each.
    """

    prompt: str
    other: str
    same_answer: float
    domain: str = ""

    @property
    def positive(self) -> bool:
        return self.same_answer > 0.5


def read_pairs(file: str | Path, domain: str | None = None) -> list[Pair]:
    """Read `{"prompt", "other", "same_answer"}` lines, with an optional `"domain"` in each.

    `domain`, if given, overrides what the lines say; blank lines are skipped. Raises TrainingError
    naming file and line for a line that is not such an object, and for a file without pairs.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"{path} cannot be read: {error}; give a UTF-8 file of lines like {_EXAMPLE}"
        ) from None
    pairs = [
        _parse(line, f"{path}, line {number}", domain)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not pairs:
        raise TrainingError(f"{path} holds no pairs; give lines like {_EXAMPLE}")
    return pairs


def _parse(line: str, where: str, domain: str | None) -> Pair:
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where} is not JSON ({error}): {line[:80]!r}") from None
    if not isinstance(data, dict):
        raise TrainingError(f"{where} is {line[:80]!r}; write an object like {_EXAMPLE}")
    texts = [_text(data, name, where) for name in ("prompt", "other")]
    label = data.get("same_answer")
    # written so that NaN, which JSON readers accept, fails too
    if not isinstance(label, int | float) or not 0 <= label <= 1:
        raise TrainingError(f"{where}: same_answer is {label!r}; give a number from 0 to 1")
    named = data.get("domain", "") if domain is None else domain
    if not isinstance(named, str):
        raise TrainingError(f"{where}: domain is {named!r}; give a text")
    return Pair(texts[0], texts[1], float(label), named)


def _text(data: dict[str, Any], name: str, where: str) -> str:
    text = data.get(name)
    if not isinstance(text, str) or not text.strip():
        raise TrainingError(f"{where}: {name} is {text!r}; give a question as text")
    return text
