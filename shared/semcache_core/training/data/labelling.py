"""Labels pairs by a teacher or by their known answers, and estimates what a teacher costs."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import Field

from semcache_core._utils.json_lines import JsonLine, parse_model, parse_object
from semcache_core.errors import TrainingError
from semcache_core.training.data.records import (
    MinedPair,
    Progress,
    json_line,
    same_known_answer,
)
from semcache_core.training.data.teacher import SCHEMA, Teacher, TeacherLabel, messages, verdict_key
from semcache_core.types import Clock

_BEGINNING = b'{"key": "'
_STORED_EXAMPLE = (
    '{"key": "...", "probability": 0.9, "reason": "..."}, remove the line, or name another file'
)


class VerdictStore:
    """An append-only file of JSON lines with the verdicts of teachers.

    An unfinished last line is cut off. Raises TrainingError, naming the line, for any other bad
    one, and for a file that cannot be used.
    """

    def __init__(self, file: str | Path) -> None:
        self._path = Path(file)
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = self._path.read_bytes() if self._path.exists() else b""
            mended = _mended(content)
            self._verdicts = _stored_verdicts(mended, self._path)
            # unbuffered: a verdict is in the file, or the error is raised, when it is added
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(min(len(mended), len(content)))
            self._file.write(mended[len(content) :])
        except OSError as error:
            raise TrainingError(f"the store {self._path} cannot be used: {error}") from error

    def __enter__(self) -> "VerdictStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._verdicts

    def get(self, key: str) -> TeacherLabel | None:
        return self._verdicts.get(key)

    def add(self, key: str, teacher_name: str, pair: MinedPair, verdict: TeacherLabel) -> None:
        """Append a verdict; TrainingError, and nothing added, on a full disk."""
        about = {"key": key, "teacher": teacher_name, "prompt": pair.prompt, "other": pair.other}
        line = json_line(about | verdict.model_dump())
        with self._lock:
            end = self._file.seek(0, os.SEEK_END)
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError as error:
                # half a line would make one with the next, of a thread that finds room again
                self._file.truncate(end)
                raise TrainingError(
                    f"the store {self._path} cannot be written: {error}; make room"
                ) from error
            self._verdicts[key] = verdict


def _mended(content: bytes) -> bytes:
    """The lines of a store; the last one is ended, or left out where a crash cut it short."""
    end = content.rfind(b"\n") + 1
    last = content[end:]
    try:
        json.loads(last or "0")
    except ValueError:
        # nothing that may be somebody's own text is taken for a piece of a verdict
        if last.startswith(_BEGINNING[: len(last)]):
            return content[:end]
    return content + b"\n" if last else content


class _VerdictLine(JsonLine):
    key: str = Field(description="the key of a verdict, remove the line, or name another file")
    probability: float = Field(ge=0, le=1, description="a number from 0 to 1, or remove the line")
    reason: str = Field(description="a text, or remove the line")


def _stored_verdicts(content: bytes, path: Path) -> dict[str, TeacherLabel]:
    verdicts = {}
    for number, data in enumerate(content.split(b"\n"), start=1):
        if data.strip():
            where = f"{path}, line {number}"
            found = parse_object(data, where, _STORED_EXAMPLE, TrainingError)
            line = parse_model(_VerdictLine, found, where, _STORED_EXAMPLE, TrainingError)
            verdicts[line.key] = TeacherLabel(probability=line.probability, reason=line.reason)
    return verdicts


ATTEMPTS = 4
"""How often a failing call is made, with 2, 4 and 8 seconds in between."""
_HOPELESS = 20


def label_by_answers(pairs: Sequence[MinedPair]) -> list[MinedPair]:
    """The pairs with `same_answer` by `same_known_answer`, 1 or 0.

    Raises TrainingError naming the first pair without known answers on both sides.
    """
    labelled = []
    for index, pair in enumerate(pairs, start=1):
        same = same_known_answer(*pair.questions)
        if same is None:
            raise TrainingError(
                f"pair {index} ({pair.prompt!r} with {pair.other!r}) does not have known answers, "
                "or answer ids, on both sides; add them to the questions, or label with a teacher"
            )
        labelled.append(replace(pair, same_answer=float(same)))
    return labelled


@dataclass(frozen=True)
class Labelling:
    """`pairs` are those with a verdict, in order; `malformed` is the number left out without one.

    `asked` is the number of different pairs that the teacher was asked about now.
    """

    pairs: list[MinedPair]
    asked: int
    malformed: int


def label_with_teacher(
    pairs: Sequence[MinedPair],
    teacher: Teacher,
    *,
    store: str | Path,
    max_per_minute: float | None = None,
    concurrency: int = 4,
    progress: Progress | None = None,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Labelling:
    """Label pairs by the teacher's probability; every verdict is kept in `store` as it comes.

    Pairs with a verdict of this teacher in `store` cost nothing, so an interrupted run goes on.
    `concurrency` calls are made at a time, beginning at least 60 / `max_per_minute` seconds apart.
    A failing call is made ATTEMPTS times; a malformed verdict is asked for once more, then left
    out and counted.

    Raises TrainingError for arguments out of range and an unusable store before any call; later
    when the provider keeps failing and when the first 20 pairs, or all, get malformed verdicts.
    """
    if concurrency < 1 or (max_per_minute is not None and not max_per_minute > 0):
        raise TrainingError(
            f"concurrency is {concurrency}, max_per_minute {max_per_minute}; both must be above 0"
        )
    keys = [verdict_key(teacher.name, pair) for pair in pairs]
    gap = 60 / max_per_minute if max_per_minute else 0.0
    with VerdictStore(store) as verdicts:
        todo = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in verdicts}
        run = _Run(teacher, verdicts, gap, clock, sleep)
        try:
            run.judge_all(todo, concurrency, progress)
        except TrainingError as error:
            done = sum(key in verdicts for key in set(keys))
            raise TrainingError(
                f"{error}; {done} of {len(set(keys))} pairs are judged and kept in {store}: "
                "run it again to go on"
            ) from error
    labelled = [
        replace(pair, same_answer=verdict.probability, reason=verdict.reason)
        for key, pair in zip(keys, pairs, strict=True)
        if (verdict := verdicts.get(key)) is not None
    ]
    if pairs and not labelled:
        raise TrainingError(
            f"no verdict of {teacher.name} on {len(pairs)} pairs keeps to the schema; "
            "use a model that does"
        )
    return Labelling(labelled, asked=len(todo), malformed=len(pairs) - len(labelled))


class _Stopped(Exception):
    """Another call failed for good, so this one is not made."""


@dataclass
class _Run:
    """One run of a teacher over pairs without a verdict; calls begin `gap` seconds apart."""

    teacher: Teacher
    verdicts: VerdictStore
    gap: float
    clock: Clock
    sleep: Callable[[float], None]
    done: int = 0
    malformed: int = 0

    def __post_init__(self) -> None:
        self._stop, self._lock, self._next = threading.Event(), threading.Lock(), self.clock()

    def judge_all(
        self, todo: Mapping[str, MinedPair], concurrency: int, progress: Progress | None
    ) -> None:
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="semcache-teacher")
        try:
            calls = [pool.submit(self._one, key, pair) for key, pair in todo.items()]
            for call in as_completed(calls):
                call.result()
                if progress is not None:
                    progress("pairs judged", self.done, len(todo))
        finally:
            # interrupted too: what is being answered is paid for, and each thread stores its own
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, key: str, pair: MinedPair) -> None:
        try:
            verdict = self._ask(pair) or self._ask(pair)  # a malformed one is asked for once more
            if verdict is not None:
                self.verdicts.add(key, self.teacher.name, pair, verdict)
            self._count(malformed=verdict is None)
        except _Stopped:
            return
        except BaseException:
            self._stop.set()  # here, not where the result is read: this thread would go on
            raise

    def _ask(self, pair: MinedPair) -> TeacherLabel | None:
        for attempt in range(1, ATTEMPTS + 1):
            self._wait()
            if self._stop.is_set():
                raise _Stopped
            try:
                return self.teacher.judge(pair.prompt, pair.other)
            # the clients of the providers have no error in common
            except Exception as error:
                if attempt == ATTEMPTS:
                    raise TrainingError(
                        f"the teacher {self.teacher.name} failed {ATTEMPTS} times in a row, "
                        f"at last with {error!r}"
                    ) from error
                self.sleep(2.0**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _wait(self) -> None:
        with self._lock:
            now = self.clock()
            start = max(now, self._next)
            self._next = start + self.gap
        if start > now:
            self.sleep(start - now)

    def _count(self, malformed: bool) -> None:
        with self._lock:
            self.done += 1
            self.malformed += malformed
            hopeless = self.malformed == self.done == _HOPELESS
        if hopeless:
            raise TrainingError(
                f"the first {_HOPELESS} verdicts of {self.teacher.name} are all malformed; "
                "use a model that keeps to a schema"
            )


PRICES: Mapping[str, tuple[float, float]] = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o": (2.50, 10.00),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1": (2.00, 8.00),
    "gpt-5-mini": (0.25, 2.00),
    "claude-haiku-4-5": (1.00, 5.00),
    "claude-sonnet-4-5": (3.00, 15.00),
}
"""Dollars per million input and output tokens. List prices change: bring your own for a budget."""
_CHARACTERS_PER_TOKEN = 4
_OUTPUT_TOKENS = 60  # a probability and a sentence, with the braces around them


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of judging pairs. `dollars` is None where the model's price is not known.

    Tokens are rough, four characters each, without those of a model's reasoning.
    """

    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None

    def __str__(self) -> str:
        cost = (
            f"no price is known for {self.model}"
            if self.dollars is None
            else f"about ${self.dollars:,.2f} at the list price of {self.model}"
        )
        return (
            f"{self.calls:,} calls, about {self.input_tokens:,} tokens in and "
            f"{self.output_tokens:,} out; {cost}"
        )


def estimate(
    pairs: Sequence[MinedPair],
    teacher_name: str,
    prices: Mapping[str, tuple[float, float]] = PRICES,
    store: str | Path | None = None,
) -> Estimate:
    """Calls, tokens and dollars of judging `pairs`, without those that `store` has verdicts on.

    `prices` gives dollars per million input and output tokens by the teacher's name, with the
    provider or without.
    """
    todo = {verdict_key(teacher_name, pair): pair for pair in pairs}
    if store is not None and Path(store).exists():
        with VerdictStore(store) as verdicts:
            todo = {key: pair for key, pair in todo.items() if key not in verdicts}
    characters = sum(
        len(content) for p in todo.values() for _, content in messages(p.prompt, p.other)
    ) + len(todo) * len(SCHEMA)
    tokens_in, tokens_out = characters // _CHARACTERS_PER_TOKEN, len(todo) * _OUTPUT_TOKENS
    price = prices.get(teacher_name) or prices.get(teacher_name.partition(":")[2])
    dollars = None if price is None else (tokens_in * price[0] + tokens_out * price[1]) / 1e6
    return Estimate(teacher_name, len(todo), tokens_in, tokens_out, dollars)
