"""The rule "is this a hit?": candidates in, decision and reason out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from semcache_core._utils.courtesy import core_of, draws_on_person
from semcache_core.decision.scoring import (
    CandidateScores,
    Neighbour,
    ScoredCandidate,
    Weights,
    sigmoid,
)
from semcache_core.decision.verifier import Verification
from semcache_core.errors import IndexUnavailableError
from semcache_core.observability.tracing import Stages
from semcache_core.request import Key
from semcache_core.search.retriever import CANDIDATES, Retrieved, Retriever
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Entry, Request, Vector


class Monitor(Protocol):
    """Says which probability is required now; see `quality.monitor.ErrorMonitor`."""

    @property
    def threshold(self) -> float:
        """The calibrated threshold, or a higher one while too many answers are wrong."""
        ...


@dataclass(frozen=True)
class Decision:
    """The result of a lookup, before anything is sampled or counted.

    `served` is the candidate to serve with its scores, `entry` its stored entry. `held_back` is a
    candidate above the calibrated threshold and below the monitor's raised one. `near` are all
    candidates that were scored, best first.
    """

    cause: str | Callable[[], str]
    served: ScoredCandidate | None = None
    entry: Entry | None = None
    held_back: ScoredCandidate | None = None
    near: tuple[Retrieved, ...] = ()
    scores: CandidateScores | None = None

    @property
    def reason(self) -> str:
        """`cause` in words. A cause that takes time to find is worked out only here."""
        return self.cause if isinstance(self.cause, str) else self.cause()


@dataclass(frozen=True)
class HitDecider:
    """Decides which of the entries near a question may be served.

    `threshold` is the calibrated probability to serve at; `monitor` may require a higher one.
    `verification` is asked about candidates from the probability `uncertain_from` on (None: never).
    `confirmations` is how many other writers must have stored an entry's answer before it is
    served to anybody but its writer; 0 needs none.
    """

    retriever: Retriever
    ledger: Ledger
    weights: Weights
    threshold: float
    monitor: Monitor
    verification: Verification | None = None
    uncertain_from: float | None = None
    confirmations: int = 0

    def decide(
        self, request: Request, key: Key, vector: Vector, now: float, stages: Stages
    ) -> Decision:
        """Find the entries near `vector`, the question's, and decide; ended stages are appended."""
        while True:
            try:
                near = self.retriever.nearest(key.partition, vector, now, key.exact)
            except IndexUnavailableError as error:
                return Decision(str(error))
            stages.append(("retrieve", time.perf_counter()))
            if not near:
                return Decision("everything stored here has expired")
            decision = self.choose(near, request, key, now, stages)
            # None: another process deleted or replaced the entry; look at what is there now
            if decision is not None:
                return decision

    def choose(
        self, near: Sequence[Retrieved], request: Request, key: Key, now: float, stages: Stages
    ) -> Decision | None:
        """Decide among `near`, which is not empty; None when the entry to serve is gone."""
        # Entries known to be wrong for this question are left out before the scoring: they are
        # no rivals to the others either.
        left = tuple(one for one in near if not one.entry.known_wrong)
        scores = self._score(left, request, key, complete=len(near) < CANDIDATES)
        best = scores.best(self.threshold)
        stages.append(("judge", time.perf_counter()))
        reason = "a stored question is near enough"
        if best is None:
            best = self._second_opinion(scores, request, stages)
            reason = "a stored question is nearly near enough, and the verifier agreed"
            if best is None:
                known_wrong = near[0].entry.known_wrong
                cause = _QUARANTINED if known_wrong else lambda: self._why_not(scores)
                return Decision(cause, near=left, scores=scores)
        elif best.probability < self.monitor.threshold:
            reason = "the measured error is above the bound, so the audit raised the threshold"
            return Decision(reason, held_back=best, near=left, scores=scores)
        entry = self.ledger.lookups.get(best.neighbour.entry_id, key.partition, now)
        if entry is None:
            return None
        if self._written_for_another(entry, request):
            return Decision(_FOR_ANOTHER, near=left, scores=scores)
        return Decision(reason, served=best, entry=entry, near=left, scores=scores)

    def _score(
        self, near: Sequence[Retrieved], request: Request, key: Key, complete: bool
    ) -> CandidateScores:
        confirmed = self._confirmed(near, request, key)
        neighbours = [
            Neighbour(
                entry_id=one.entry.id,
                question=one.entry.question,
                answer=answer,
                similarity=one.similarity,
                doubt=one.entry.doubt,
                servable=not one.entry.exact_only and one.entry.id in confirmed,
            )
            for one, answer in zip(near, _answers(near), strict=True)
        ]
        return CandidateScores(request.question, neighbours, self.weights, complete)

    def _confirmed(self, near: Sequence[Retrieved], request: Request, key: Key) -> set[int]:
        """The ids of the entries that may be served to the writer of `request`."""
        if not self.confirmations:
            return {one.entry.id for one in near}
        answers = sorted({one.entry.answer for one in near})
        writers = self.ledger.lookups.writers(answers, key.partition)
        return {
            one.entry.id
            for one in near
            if (request.writer is not None and one.entry.writer == request.writer)
            # an entry's own writer does not confirm it
            or writers.get(one.entry.answer, 0) - (one.entry.writer is not None)
            >= self.confirmations
        }

    def _second_opinion(
        self, scores: CandidateScores, request: Request, stages: Stages
    ) -> ScoredCandidate | None:
        """The best uncertain candidate, if the verifier accepts its answer."""
        if self.verification is None or self.uncertain_from is None:
            return None
        uncertain = scores.best(self.uncertain_from)
        if uncertain is None:
            return None
        answer = self.ledger.lookups.answer_text(uncertain.neighbour.entry_id)
        if answer is None:
            return None
        agrees = self.verification.agrees(request.question, uncertain.neighbour.question, answer)
        stages.append(("verify", time.perf_counter()))
        return uncertain if agrees else None

    def _written_for_another(self, entry: Entry, request: Request) -> bool:
        """Whether the answer names the person who asked first, whom the comparison left out."""
        stored = core_of(entry.question)
        if not stored.person:
            return False
        # the response may be JSON with escaped letters, and of the text only the beginning is kept
        text = self.ledger.lookups.answer_text(entry.id) or ""
        return draws_on_person(stored, request.question, f"{text}\n{entry.response}")

    def _why_not(self, scores: CandidateScores) -> str:
        """Why none of these candidates is served; there is at least one."""
        first = next(iter(scores))
        if not first.neighbour.servable and first.probability >= self.threshold:
            return "the nearest entry is served only exactly, or to its own writer, so far"
        if first.differences:
            found = "; ".join(difference.words for difference in first.differences)
            return f"the nearest stored question differs in what decides ({found})"
        if self._reaches(first, first.margin):
            return "the nearest entry has given wrong answers before"
        if self._reaches(first, self.weights.widest):
            return "questions with different answers are stored about equally near"
        return "the nearest stored question is not near enough"

    def _reaches(self, candidate: ScoredCandidate, margin: float) -> bool:
        """Whether the candidate would reach the threshold with this margin and without doubt."""
        similarity = candidate.neighbour.similarity
        return sigmoid(self.weights.log_odds(similarity, margin)) >= self.threshold


def _answers(near: Sequence[Retrieved]) -> list[int]:
    """The number of each candidate's answer. Equal texts get one number.

    Texts stored at the same time, or without a lookup, were never compared and have two.
    """
    answers = [one.entry.answer for one in near]
    if len(set(answers)) == 1:
        return answers
    first: dict[bytes, int] = {}
    same: dict[int, int] = {}
    for one in near:
        digest, answer = one.entry.answer_digest, one.entry.answer
        if digest is not None and (other := first.setdefault(digest, answer)) != answer:
            one_of, another = _first(same, other), _first(same, answer)
            if one_of != another:
                same[another] = one_of
    return [_first(same, answer) for answer in answers] if same else answers


def _first(same: Mapping[int, int], answer: int) -> int:
    """The end of the chain of equal answers that starts at `answer`."""
    while answer in same:
        answer = same[answer]
    return answer


_QUARANTINED = "what is stored nearest has answered this question wrongly before"
_FOR_ANOTHER = "the nearest answer names the person it was written for"
