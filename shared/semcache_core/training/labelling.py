"""Labels for mined pairs: by their known answers, or by a teacher."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from semcache_core.errors import TrainingError
from semcache_core.training.pairs import MinedPair, Progress
from semcache_core.training.questions import same_known_answer
from semcache_core.training.teacher import Teacher, Verdict, verdict_key
from semcache_core.training.verdicts import VerdictStore
from semcache_core.types import Clock

ATTEMPTS = 4
"""So often a call is made that the provider fails, waiting 2, 4 and 8 seconds in between."""
_HOPELESS = 20


def label_by_answers(pairs: Sequence[MinedPair]) -> list[MinedPair]:
    """The pairs with `same_answer` 1 where the known answers meet and 0 where they do not.

    See `same_known_answer`. Raises TrainingError naming the first pair where a question has
    nothing known that could be compared.
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
    """`pairs` are those with a verdict, in order; `malformed` counts those left out without one.

    `asked` counts the different pairs that the teacher was asked about now.
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

    Pairs that `store` has a verdict of this teacher on cost nothing, so an interrupted run goes on
    where it stopped. `concurrency` calls are made at a time, which begin at least
    60 / `max_per_minute` seconds apart. One that the provider fails is made again, ATTEMPTS times
    in all; a malformed verdict is asked for once more, then left out and counted, never guessed.

    Raises TrainingError for arguments out of range and an unusable store before anything is asked;
    later when the provider keeps failing, when the store cannot be written, and when the first 20
    pairs, or all, get malformed verdicts only. All verdicts until then are kept.
    """
    if concurrency < 1 or (max_per_minute is not None and not max_per_minute > 0):
        raise TrainingError(
            f"concurrency is {concurrency}, max_per_minute {max_per_minute}; both must be above 0"
        )
    keys = [verdict_key(teacher.name, pair) for pair in pairs]
    gap = 60 / max_per_minute if max_per_minute else 0.0
    with VerdictStore(store) as verdicts:
        todo = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in verdicts}
        run = _Run(teacher, verdicts, _Pace(gap, clock, sleep), sleep)
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


class _Pace:
    """Lets calls begin at least `gap` seconds apart, whichever threads make them."""

    def __init__(self, gap: float, clock: Clock, sleep: Callable[[float], None]) -> None:
        self._gap, self._clock, self._sleep = gap, clock, sleep
        self._lock = threading.Lock()
        self._next = clock()

    def wait(self) -> None:
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            self._sleep(start - now)


class _Stopped(Exception):
    """Another call failed for good, so this one is not made."""


class _Run:
    """One run of a teacher over pairs without a verdict."""

    def __init__(
        self,
        teacher: Teacher,
        verdicts: VerdictStore,
        pace: _Pace,
        sleep: Callable[[float], None],
    ) -> None:
        self._teacher, self._verdicts, self._pace, self._sleep = teacher, verdicts, pace, sleep
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._done = self._malformed = 0

    def judge_all(
        self, todo: Mapping[str, MinedPair], concurrency: int, progress: Progress | None
    ) -> None:
        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="semcache-teacher")
        try:
            calls = [pool.submit(self._one, key, pair) for key, pair in todo.items()]
            for call in as_completed(calls):
                call.result()
                if progress is not None:
                    progress("pairs judged", self._done, len(todo))
        finally:
            # interrupted too: what is being answered is paid for, and each thread stores its own
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, key: str, pair: MinedPair) -> None:
        try:
            verdict = self._ask(pair) or self._ask(pair)  # a malformed one is asked for once more
            if verdict is not None:
                self._verdicts.add(key, self._teacher.name, pair, verdict)
            self._count(malformed=verdict is None)
        except _Stopped:
            return
        except BaseException:
            self._stop.set()  # here, not where the result is read: this thread would go on
            raise

    def _ask(self, pair: MinedPair) -> Verdict | None:
        for attempt in range(1, ATTEMPTS + 1):
            self._pace.wait()
            if self._stop.is_set():
                raise _Stopped
            try:
                return self._teacher.judge(pair.prompt, pair.other)
            # the clients of the providers have no error in common
            except Exception as error:
                if attempt == ATTEMPTS:
                    raise TrainingError(
                        f"the teacher {self._teacher.name} failed {ATTEMPTS} times in a row, "
                        f"at last with {error!r}"
                    ) from error
                self._sleep(2.0**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _count(self, malformed: bool) -> None:
        with self._lock:
            self._done += 1
            self._malformed += malformed
            hopeless = self._malformed == self._done == _HOPELESS
        if hopeless:
            raise TrainingError(
                f"the first {_HOPELESS} verdicts of {self._teacher.name} are all malformed; "
                "use a model that keeps to a schema"
            )
