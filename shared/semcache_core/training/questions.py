"""A log of questions, read from JSON lines, and what is known of their answers."""

import json
import string
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semcache_core.errors import TrainingError

_EXAMPLE = '{"question": "..."}'
_CLOSING = " .?!,;:…。？！"
_ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class Question:
    """A question, with the answers or the group of it where they are known.

    `answers` are different wordings of right answers. `answer_id` names an intent or group: equal
    ids mean that one answer serves both questions.
    """

    text: str
    answers: tuple[str, ...] = ()
    answer_id: str | None = None

    @property
    def answer_keys(self) -> frozenset[tuple[str, str]]:
        """What two questions with a common answer have in common; empty when nothing is known."""
        keys = {("answer", normalise_answer(answer)) for answer in self.answers}
        if self.answer_id is not None:
            keys.add(("id", self.answer_id))
        return frozenset(keys)


def same_known_answer(one: Question, other: Question) -> bool | None:
    """Whether the known answers say that one answer serves both; None when they say nothing.

    Ids decide where both have one, and are compared as they are; else the normalised answers,
    which agree when any of the one is any of the other.
    """
    if one.answer_id is not None and other.answer_id is not None:
        return one.answer_id == other.answer_id
    if not one.answers or not other.answers:
        return None
    mine, yours = ({normalise_answer(answer) for answer in q.answers} for q in (one, other))
    return not mine.isdisjoint(yours)


def normalise_answer(answer: str) -> str:
    """`answer` in lower case, without punctuation, articles and extra white space.

    So the answers of open-domain question answering are compared. Where nothing would be left, as
    of "The" or "+", the answer stays as it is but for case and white space.
    """
    folded = unicodedata.normalize("NFKC", answer).casefold()
    bare = "".join(c for c in folded if not _is_punctuation(c))
    words = [word for word in bare.split() if word not in _ARTICLES]
    return " ".join(words or folded.split())


def fold_question(text: str) -> str:
    """`text` without what makes no other question of it: case, white space, closing punctuation."""
    words = " ".join(text.casefold().split())
    return words.rstrip(_CLOSING) or words


def read_questions(file: str | Path) -> list[Question]:
    """Read `{"question"}` lines, with an optional `"answer"` or `"answer_id"` in each.

    `"answer"` is a text or a list of texts, as in NQ-open; `"answer_id"` a text, as in streams.
    Other fields are ignored, blank lines skipped. Raises TrainingError naming file and line for a
    line that is not such an object, and for a file without questions.
    """
    questions = [parse_question(data, where) for where, data in read_objects(file, _EXAMPLE)]
    if not questions:
        raise TrainingError(f"{file} holds no questions; give lines like {_EXAMPLE}")
    return questions


def parse_question(data: dict[str, Any], where: str) -> Question:
    """The Question of one object; `where` (file and line) begins the text of a TrainingError."""
    return Question(
        text_field(data, "question", where),
        _answers(data.get("answer"), where),
        parse_answer_id(data.get("answer_id"), "answer_id", where),
    )


def parse_answer_id(value: object, name: str, where: str) -> str | None:
    """`value` if it is an id or absent; TrainingError naming the field `name` if not."""
    if value is None or (isinstance(value, str) and value):
        return value
    raise TrainingError(f"{where}: {name} is {value!r}; give the intent or group as text")


def text_field(data: dict[str, Any], name: str, where: str) -> str:
    """The field `name` of `data`, which must be a text that is not blank."""
    text = data.get(name)
    if not isinstance(text, str) or not text.strip():
        raise TrainingError(f"{where}: {name} is {text!r}; give a question as text")
    return text


def read_objects(file: str | Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each JSON object of a UTF-8 file of JSON lines, with its place as "FILE, line N".

    Blank lines are skipped. Raises TrainingError, which shows `example`, for a file that cannot be
    read and, naming the line, for one that is no JSON object.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"{path} cannot be read: {error}; give a UTF-8 file of lines like {example}"
        ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parse_object(line, where, example)


def parse_object(line: str | bytes, where: str, example: str) -> dict[str, Any]:
    """The JSON object in a line; a TrainingError names `where` and shows `example`."""
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{where} is not JSON ({error}): {line[:80]!r}") from None
    if not isinstance(data, dict):
        raise TrainingError(f"{where} is {line[:80]!r}; write an object like {example}")
    return data


def json_line(data: dict[str, Any]) -> bytes:
    """`data` as one line of JSON in UTF-8, which `read_objects` reads back."""
    try:
        return (json.dumps(data, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write as an escape only
        return (json.dumps(data) + "\n").encode()


def _answers(value: object, where: str) -> tuple[str, ...]:
    found = [] if value is None else value if isinstance(value, list) else [value]
    for answer in found:
        if not isinstance(answer, str) or not answer.strip():
            raise TrainingError(
                f"{where}: answer is {value!r}; give a text or a list of texts, or leave it out"
            )
    return tuple(found)


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
