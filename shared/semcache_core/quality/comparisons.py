"""Compares the model's own answers with cached ones, after audits and in shadow mode."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from semcache_core.decision.same_answer import SameAnswer, answer_digest
from semcache_core.decision.scoring import ScoredCandidate
from semcache_core.quality.entry_trust import doubted
from semcache_core.quality.monitor import ErrorMonitor
from semcache_core.quality.verdicts import ServedHit, Source, Verdict, VerdictLog
from semcache_core.request import Key
from semcache_core.search.retriever import Retrieved
from semcache_core.storage.ledger import Ledger

log = logging.getLogger("semcache")

_PENDING = 1024
_COMPARED = 2
_COMPARED_FROM = 0.7
"""Less alike questions are no rivals to each other, whatever their answers are."""


@dataclass(frozen=True)
class _Seen:
    """The answer of a stored question near the one asked."""

    entry_id: int
    similarity: float
    answer: int
    answer_digest: bytes | None


@dataclass(frozen=True)
class _Pending:
    """What a lookup that missed saw, and the candidate that was withheld, if any."""

    near: tuple[_Seen, ...]
    withheld: ScoredCandidate | None
    source: Source
    verdicts: dict[tuple[int, bytes], bool | None] = field(default_factory=dict)
    """Results so far, by entry and answer: a comparison may be a call of a model."""


@dataclass(eq=False)
class AnswerComparer:
    """Compares fresh model answers with cached ones, and so learns whether these were right.

    A lookup that missed leaves what it saw; the update that follows brings the model's answer,
    and the two are compared. Nothing waits, and a lookup without an update is forgotten.
    `rate` is the share of the hits by meaning that are audited.
    """

    ledger: Ledger
    verdicts: VerdictLog
    monitor: ErrorMonitor
    same_answer: SameAnswer
    rate: float

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: OrderedDict[bytes, _Pending] = OrderedDict()
        self._warned: set[type[Exception]] = set()

    def remember(
        self, key: Key, near: Sequence[Retrieved], withheld: ScoredCandidate | None, source: Source
    ) -> None:
        """Keep what a lookup saw whose question the model answers next."""
        seen = tuple(
            _Seen(one.entry.id, one.similarity, one.entry.answer, one.entry.answer_digest)
            for one in near
        )
        with self._lock:
            self._pending[key.exact] = _Pending(seen, withheld, source)
            self._pending.move_to_end(key.exact)
            if len(self._pending) > _PENDING:
                self._pending.popitem(last=False)

    def log_hit(self, key: Key, asked: str, judged: ScoredCandidate, now: float) -> None:
        """Log a hit by meaning, in memory."""
        entry_id, similarity = judged.neighbour.entry_id, judged.neighbour.similarity
        self.verdicts.served(
            ServedHit(entry_id, asked, key.exact, similarity, _calibrated(judged), now)
        )

    def same_as(self, key: Key, answer: str) -> int | None:
        """The number of the stored answer that says the same; None for a new answer.

        Words are compared first, which costs nothing. Comparing meaning costs an embedding, and
        only pays where the questions are alike.
        """
        with self._lock:
            pending = self._pending.get(key.exact)
        if pending is None:
            return None
        digest = answer_digest(answer)
        for one in pending.near:
            if one.answer_digest == digest:
                return one.answer
        for one in pending.near[:_COMPARED]:
            if one.similarity >= _COMPARED_FROM and self._same(pending, one.entry_id, answer):
                return one.answer
        return None

    def compare(self, key: Key, asked: str, answer: str, now: float) -> Verdict | None:
        """Compare the model's answer to `asked` with the hit that was withheld or audited, and
        keep the verdict; None where there was no such hit, or the two cannot be compared.
        """
        with self._lock:
            pending = self._pending.pop(key.exact, None)
        if pending is None or (judged := pending.withheld) is None:
            return None
        correct = self._same(pending, judged.neighbour.entry_id, answer)
        if correct is None:
            return None
        verdict = Verdict(
            namespace=key.namespace,
            entry_id=judged.neighbour.entry_id,
            asked=asked,
            stored=judged.neighbour.question,
            similarity=judged.neighbour.similarity,
            probability=_calibrated(judged),
            correct=correct,
            source=pending.source,
            at=now,
        )
        self.verdicts.judge(verdict, key.exact)
        self.monitor.add(judged.probability, correct, weight_of(pending.source, self.rate))
        return verdict

    def _same(self, pending: _Pending, entry_id: int, answer: str) -> bool | None:
        """Whether both are the same; None where the entry is gone or the comparison fails."""
        pair = entry_id, answer_digest(answer)
        if pair not in pending.verdicts:
            pending.verdicts[pair] = self._compared(entry_id, answer)
        return pending.verdicts[pair]

    def _compared(self, entry_id: int, answer: str) -> bool | None:
        stored = self.ledger.lookups.answer_text(entry_id)
        if stored is None:
            return None
        if answer_digest(stored) == answer_digest(answer):
            return True  # nobody need be asked
        try:
            same = self.same_answer(stored, answer)
            if isinstance(same, bool | np.bool_):  # and no coroutine, which would count as True
                return bool(same)
            raise TypeError(f"same_answer must return a bool, got a {type(same).__name__}")
        except Exception as error:  # noqa: BLE001 - a judge of the app's own may raise anything
            self._warn_once(error)
            return None

    def _warn_once(self, error: Exception) -> None:
        if type(error) not in self._warned:
            self._warned.add(type(error))
            log.warning(
                "semcache: two answers could not be compared: %r; such an audit counts neither as "
                "right nor as wrong; mend same_answer, or the embedder",
                error,
            )


def _calibrated(judged: ScoredCandidate) -> float:
    """The probability before any doubt, which is what a doubt is learnt from."""
    if not judged.neighbour.doubt:
        return judged.probability
    return doubted(judged.probability, -judged.neighbour.doubt)


def weight_of(source: Source, rate: float) -> float:
    """How many hits a verdict stands for: an audited one for all that were not sampled."""
    return 1 / rate if source == "audit" and rate else 1.0
