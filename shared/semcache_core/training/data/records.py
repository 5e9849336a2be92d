"""A log of questions, read from JSON lines, and what is known of their answers."""

import json
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from semcache_core._utils.files import write_whole
from semcache_core.errors import TrainingError

_QUESTION_EXAMPLE = '{"question": "..."}'
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
    questions = [
        parse_question(data, where) for where, data in read_objects(file, _QUESTION_EXAMPLE)
    ]
    if not questions:
        raise TrainingError(f"{file} holds no questions; give lines like {_QUESTION_EXAMPLE}")
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


_PAIR_EXAMPLE = '{"prompt": "...", "other": "...", "same_answer": 1}'
_MINED_EXAMPLE = '{"prompt": "...", "other": "..."}'

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being counted, how many are done and how many there are."""


@dataclass(frozen=True)
class Pair:
    """Two questions and whether one answer serves both.

    `same_answer` is 1 or 0, or what lies between when judges disagreed. `domain` names the field
    the questions come from; calibration weighs domains equally and keeps its bounds in each.
    `split` is "train", "calibration" or "test" where the pair was dealt to one when it was mined.
    """

    prompt: str
    other: str
    same_answer: float
    domain: str = ""
    split: str = ""

    @property
    def positive(self) -> bool:
        return self.same_answer > 0.5


@dataclass(frozen=True)
class MinedPair:
    """Two questions that are near each other, and what is known of them so far.

    `similarity` is the cosine under the embedder that mined them. `same_answer` is None until the
    pair is labelled, `reason` what a teacher gave for it. `extra` holds fields of the file that
    mean nothing here, so that labelling a file loses none of them.
    """

    questions: tuple[Question, Question]
    similarity: float | None = None
    split: str = ""
    domain: str = ""
    same_answer: float | None = None
    reason: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def prompt(self) -> str:
        return self.questions[0].text

    @property
    def other(self) -> str:
        return self.questions[1].text

    def labelled(self) -> Pair:
        """This pair for training; TrainingError when it has no label."""
        if self.same_answer is None:
            raise TrainingError(
                f"{self.prompt!r} with {self.other!r} has no same_answer; label the pairs first"
            )
        return Pair(self.prompt, self.other, self.same_answer, self.domain, self.split)


class TwoQuestions(Protocol):
    """What is compared of a pair: `Pair` and `MinedPair` have it."""

    @property
    def prompt(self) -> str: ...

    @property
    def other(self) -> str: ...


def read_pairs(file: str | Path, domain: str | None = None) -> list[Pair]:
    """Read `{"prompt", "other", "same_answer"}` lines, with an optional `"domain"`, `"split"`.

    `domain`, if given, overrides what the lines say; other fields are ignored and blank lines
    skipped. Raises TrainingError naming file and line for a line that is not such an object, and
    for a file without pairs.
    """
    pairs = [_pair(data, where, domain) for where, data in read_objects(file, _PAIR_EXAMPLE)]
    if not pairs:
        raise TrainingError(f"{file} holds no pairs; give lines like {_PAIR_EXAMPLE}")
    return pairs


def read_mined(file: str | Path) -> list[MinedPair]:
    """Read `{"prompt", "other"}` lines, labelled or not, with all that mining adds to them.

    Those fields are `"similarity"`, `"split"`, `"domain"`, `"prompt_answers"`, `"other_answers"`
    (lists of texts), `"prompt_answer_id"`, `"other_answer_id"`, `"same_answer"` and `"reason"`;
    any other is kept in `extra`. Raises TrainingError as `read_pairs` does.
    """
    pairs = [_mined(data, where) for where, data in read_objects(file, _MINED_EXAMPLE)]
    if not pairs:
        raise TrainingError(f"{file} holds no pairs; give lines like {_MINED_EXAMPLE}")
    return pairs


def write_pairs(file: str | Path, pairs: Iterable[Pair | MinedPair]) -> None:
    """Write one JSON object a line, which `read_mined` and, once labelled, `read_pairs` read back.

    The file appears, or an older one is replaced, when all is written: a failure leaves what was
    there. Raises TrainingError when it cannot be written, as on a full disk.
    """
    write_whole(file, (json_line(_fields(pair)) for pair in pairs), TrainingError)


def _pair(data: dict[str, Any], where: str, domain: str | None) -> Pair:
    texts = [text_field(data, name, where) for name in ("prompt", "other")]
    label = _label(data, where)
    if label is None:
        raise TrainingError(
            f"{where}: same_answer is None; give a number from 0 to 1, or label the pairs first"
        )
    named = _string(data, "domain", where) if domain is None else domain
    return Pair(texts[0], texts[1], label, named, _string(data, "split", where))


def _mined(data: dict[str, Any], where: str) -> MinedPair:
    known = {
        "prompt", "other", "similarity", "split", "domain", "prompt_answers", "other_answers",
        "prompt_answer_id", "other_answer_id", "same_answer", "reason",
    }  # fmt: skip
    return MinedPair(
        questions=(_question(data, "prompt", where), _question(data, "other", where)),
        similarity=_similarity(data, where),
        split=_string(data, "split", where),
        domain=_string(data, "domain", where),
        same_answer=_label(data, where),
        reason=_string(data, "reason", where),
        extra={name: value for name, value in data.items() if name not in known},
    )


def _question(data: dict[str, Any], name: str, where: str) -> Question:
    answers = data.get(f"{name}_answers", [])
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise TrainingError(f"{where}: {name}_answers is {answers!r}; give a list of texts")
    id_name = f"{name}_answer_id"
    return Question(
        text_field(data, name, where),
        tuple(answers),
        parse_answer_id(data.get(id_name), id_name, where),
    )


def _label(data: dict[str, Any], where: str) -> float | None:
    label = data.get("same_answer")
    if label is None:
        return None
    # written so that NaN, which JSON readers accept, fails too
    if not isinstance(label, int | float) or not 0 <= label <= 1:
        raise TrainingError(f"{where}: same_answer is {label!r}; give a number from 0 to 1")
    return float(label)


def _similarity(data: dict[str, Any], where: str) -> float | None:
    similarity = data.get("similarity")
    if similarity is None:
        return None
    # a little room: the length of a float32 vector is not exactly 1
    if not isinstance(similarity, int | float) or not abs(similarity) <= 1.001:
        raise TrainingError(
            f"{where}: similarity is {similarity!r}; give a cosine, or leave it out"
        )
    return float(similarity)


def _string(data: dict[str, Any], name: str, where: str) -> str:
    value = data.get(name, "")
    if not isinstance(value, str):
        raise TrainingError(f"{where}: {name} is {value!r}; give a text")
    return value


def _fields(pair: Pair | MinedPair) -> dict[str, Any]:
    """What is written of a pair: all that it holds, without fields that are empty."""
    fields: dict[str, Any] = {"prompt": pair.prompt, "other": pair.other}
    if pair.same_answer is not None:
        fields["same_answer"] = pair.same_answer
    optional: dict[str, Any] = {"domain": pair.domain, "split": pair.split}
    if isinstance(pair, MinedPair):
        optional["similarity"] = pair.similarity
        optional["reason"] = pair.reason
        for name, question in zip(("prompt", "other"), pair.questions, strict=True):
            optional[f"{name}_answers"] = list(question.answers)
            optional[f"{name}_answer_id"] = question.answer_id
        fields |= pair.extra
    return fields | {name: value for name, value in optional.items() if value not in ("", None, [])}
