"""Questions and pairs of questions, read from JSON lines or CSV, and written to JSON lines."""

import json
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import Field, PlainValidator, field_validator

from semcache_core._utils.csv_rows import csv_rows, is_csv
from semcache_core._utils.files import write_whole
from semcache_core._utils.json_lines import JsonLine, parse_model, parse_object
from semcache_core.errors import TrainingError

_QUESTION_EXAMPLE = '{"question": "..."}'
_PAIR_EXAMPLE = '{"prompt": "...", "other": "...", "same_answer": 1}'
_MINED_EXAMPLE = '{"prompt": "...", "other": "..."}'
_CLOSING = " .?!,;:…。？！"
_ARTICLES = frozenset(("a", "an", "the"))

Parsed = TypeVar("Parsed")
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being counted, how many are done and how many there are."""


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")
    return value


def _text(value: object) -> str:
    if not _string(value).strip():
        raise ValueError("a blank text")
    return _string(value)


def _id(value: object) -> str:
    if not _string(value):
        raise ValueError("an empty text")
    return _string(value)


def texts(value: object) -> tuple[str, ...]:
    """The texts of a JSON list; ValueError when it is no list, and for a blank text."""
    if not isinstance(value, list):
        raise ValueError("not a list")
    return tuple(_text(one) for one in value)


# Plain validators, since pydantic's own refuse lone surrogates, which JSON can spell.
String: TypeAlias = Annotated[str, PlainValidator(_string)]
Text: TypeAlias = Annotated[str, PlainValidator(_text)]
Id: TypeAlias = Annotated[str, PlainValidator(_id)]
Texts: TypeAlias = Annotated[tuple[str, ...], PlainValidator(texts)]


@dataclass(frozen=True)
class Question:
    """A question, with its answers or its group where they are known.

    `answers` are different wordings of right answers. Equal `answer_id`s mean that one answer
    serves both questions.
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

    @property
    def answer_key(self) -> str:
        """Equal for two questions with the same known answer; empty without exactly one."""
        if self.answer_id is not None:
            return f"id {self.answer_id}"
        known = {normalise_answer(answer) for answer in self.answers}
        return f"answer {known.pop()}" if len(known) == 1 else ""


def same_known_answer(one: Question, other: Question) -> bool | None:
    """Whether the known answers say that one answer serves both; None when they say nothing.

    Ids decide where both have one, else whether the two have a normalised answer in common.
    """
    if one.answer_id is not None and other.answer_id is not None:
        return one.answer_id == other.answer_id
    if not one.answers or not other.answers:
        return None
    mine, yours = ({normalise_answer(answer) for answer in q.answers} for q in (one, other))
    return not mine.isdisjoint(yours)


def normalise_answer(answer: str) -> str:
    """`answer` in lower case, without punctuation, articles and extra white space.

    Where nothing would be left, as of "The" or "+", only case and white space change.
    """
    folded = unicodedata.normalize("NFKC", answer).casefold()
    bare = "".join(
        c for c in folded if c not in string.punctuation and unicodedata.category(c)[0] != "P"
    )
    words = [word for word in bare.split() if word not in _ARTICLES]
    return " ".join(words or folded.split())


def fold_question(text: str) -> str:
    """`text` without what makes no other question of it: case, white space, closing punctuation."""
    words = " ".join(text.casefold().split())
    return words.rstrip(_CLOSING) or words


class _QuestionLine(JsonLine):
    question: Text = Field(description="a question as text")
    answer: tuple[str, ...] = Field((), description="a text or a list of texts, none blank")
    answer_id: Id | None = Field(None, description="the intent or group as text")

    @field_validator("answer", mode="plain")
    @classmethod
    def _answers(cls, value: object) -> tuple[str, ...]:
        return texts(value if isinstance(value, list) else [value])


def read_questions(file: str | Path) -> list[Question]:
    """Read `{"question"}` lines, with an optional `"answer"` or `"answer_id"` in each.

    `"answer"` is a text or a list of texts, as in NQ-open; `"answer_id"` a text, as in streams.
    Other fields are ignored. Raises TrainingError as `read_lines` does.
    """
    return read_lines(file, parse_question, _QUESTION_EXAMPLE, "questions")


def parse_question(data: dict[str, Any], where: str) -> Question:
    """The Question of one object; `where` (file and line) begins the text of a TrainingError."""
    line = parse_model(_QuestionLine, data, where, _QUESTION_EXAMPLE, TrainingError)
    return Question(line.question, line.answer, line.answer_id)


def read_lines(
    file: str | Path, parse: Callable[[dict[str, Any], str], Parsed], example: str, what: str
) -> list[Parsed]:
    """`parse(object, place)` of each line of `file`; blank lines are skipped.

    Raises TrainingError, naming file and line, for a line that is not such an object, and for a
    file without lines, which holds no `what`.
    """
    parsed = [parse(data, where) for where, data in read_objects(file, example)]
    if not parsed:
        raise TrainingError(f"{file} holds no {what}; give lines like {example}")
    return parsed


def read_objects(file: str | Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each JSON object of a UTF-8 file of JSON lines, with its place as "FILE, line N".

    Of a file that ends in .csv or .tsv, each row.
    """
    path = Path(file)
    if is_csv(path):
        yield from csv_rows(path, TrainingError)
        return
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"{path} cannot be read: {error}; give a UTF-8 file of lines like {example}"
        ) from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parse_object(line, where, example, TrainingError)


def json_line(data: dict[str, Any]) -> bytes:
    """`data` as one line of JSON in UTF-8, which `read_objects` reads back."""
    try:
        return (json.dumps(data, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can write as an escape only
        return (json.dumps(data) + "\n").encode()


@dataclass(frozen=True)
class Pair:
    """Two questions and whether one answer serves both.

    `same_answer` is 1 or 0, or between them when judges disagreed. `domain` names the field of the
    questions; calibration weighs domains equally. `split` is "train", "calibration" or "test" where
    the pair was dealt to one when it was mined. `answers` are the `Question.answer_key` of both,
    empty where unknown.
    """

    prompt: str
    other: str
    same_answer: float
    domain: str = ""
    split: str = ""
    answers: tuple[str, str] = ("", "")

    @property
    def positive(self) -> bool:
        return self.same_answer > 0.5


def check_labels(labels: Iterable[float]) -> None:
    """Raise TrainingError for a label outside [0, 1]; NaN and None are outside."""
    for index, label in enumerate(labels):
        if label is None or not 0 <= label <= 1:
            raise TrainingError(
                f"same_answer of pair {index} is {label}; give a number from 0 (another answer) "
                "to 1 (the same)"
            )


@dataclass(frozen=True)
class MinedPair:
    """Two questions that are near each other, and what is known of them so far.

    `similarity` is the cosine under the embedder that mined them. `same_answer` is None until the
    pair is labelled, `reason` what a teacher gave for it. `extra` holds other fields of the file.
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
        one, other = (question.answer_key for question in self.questions)
        return Pair(
            self.prompt, self.other, self.same_answer, self.domain, self.split, (one, other)
        )


def texts_of(pairs: Iterable[Pair | MinedPair]) -> list[str]:
    """The distinct texts of the pairs, in order."""
    return list(dict.fromkeys(text for pair in pairs for text in (pair.prompt, pair.other)))


class _PairLine(JsonLine):
    prompt: Text = Field(description="a question as text")
    other: Text = Field(description="a question as text")
    same_answer: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    domain: String = Field("", description="a text")
    split: String = Field("", description="a text")
    prompt_answers: Texts = Field((), description="a list of texts, none blank")
    other_answers: Texts = Field((), description="a list of texts, none blank")
    prompt_answer_id: Id | None = Field(None, description="the intent or group as text")
    other_answer_id: Id | None = Field(None, description="the intent or group as text")

    @property
    def questions(self) -> tuple[Question, Question]:
        return (
            Question(self.prompt, self.prompt_answers, self.prompt_answer_id),
            Question(self.other, self.other_answers, self.other_answer_id),
        )

    @field_validator("same_answer", mode="before")
    @classmethod
    def _as_number(cls, value: object) -> object:
        return float(value) if isinstance(value, bool) else value


class _MinedLine(_PairLine):
    # a little room: the length of a float32 vector is not exactly 1
    similarity: float | None = Field(
        None, ge=-1.001, le=1.001, description="a cosine, or leave it out"
    )
    reason: String = Field("", description="a text")


def read_pairs(file: str | Path, domain: str | None = None) -> list[Pair]:
    """Read `{"prompt", "other", "same_answer"}` lines, with an optional `"domain"`, `"split"`.

    `domain`, if given, overrides that of the lines; other fields are ignored. Raises TrainingError
    as `read_lines` does.
    """
    return read_lines(file, partial(_pair, domain=domain), _PAIR_EXAMPLE, "pairs")


def read_mined(file: str | Path) -> list[MinedPair]:
    """Read `{"prompt", "other"}` lines, labelled or not, with all that mining adds to them.

    Those fields are `"similarity"`, `"split"`, `"domain"`, `"prompt_answers"`, `"other_answers"`
    (lists of texts), `"prompt_answer_id"`, `"other_answer_id"`, `"same_answer"` and `"reason"`;
    any other is kept in `extra`. Raises TrainingError as `read_lines` does.
    """
    return read_lines(file, _mined, _MINED_EXAMPLE, "pairs")


def write_pairs(file: str | Path, pairs: Iterable[Pair | MinedPair]) -> None:
    """Write one JSON object a line, which `read_mined` and, once labelled, `read_pairs` read back.

    The file appears, or an older one is replaced, when all is written; TrainingError on failure.
    """
    write_whole(file, (json_line(_fields(pair)) for pair in pairs), TrainingError)


def _pair(data: dict[str, Any], where: str, domain: str | None) -> Pair:
    line = parse_model(_PairLine, data, where, _PAIR_EXAMPLE, TrainingError)
    if line.same_answer is None:
        raise TrainingError(
            f"{where}: same_answer is missing; give a number from 0 to 1, or label the pairs first"
        )
    named = line.domain if domain is None else domain
    one, other = (question.answer_key for question in line.questions)
    return Pair(line.prompt, line.other, line.same_answer, named, line.split, (one, other))


def _mined(data: dict[str, Any], where: str) -> MinedPair:
    line = parse_model(_MinedLine, data, where, _MINED_EXAMPLE, TrainingError)
    return MinedPair(
        questions=line.questions,
        similarity=line.similarity,
        split=line.split,
        domain=line.domain,
        same_answer=line.same_answer,
        reason=line.reason,
        extra={n: value for n, value in data.items() if n not in _MinedLine.model_fields},
    )


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
