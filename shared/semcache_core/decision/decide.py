"""The rule "is this a hit?": candidates in, decision and reason out."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from semcache_core._utils.courtesy import core_of, draws_on_person
from semcache_core.decision.guard import Difference
from semcache_core.decision.scoring import (
    CandidateScores,
    Neighbour,
    ScoredCandidate,
    Weights,
    sigmoid,
)
from semcache_core.decision.verifier import Verification
from semcache_core.errors import IndexUnavailableError
from semcache_core.hits import SERVED
from semcache_core.observability.tracing import Stages
from semcache_core.request import Key
from semcache_core.search.retriever import CANDIDATES, Retrieved, Retriever
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Entry, LookupCode, Request, Vector, Why


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

    cause: Why | Callable[[], Why]
    served: ScoredCandidate | None = None
    entry: Entry | None = None
    held_back: ScoredCandidate | None = None
    near: tuple[Retrieved, ...] = ()
    scores: CandidateScores | None = None

    @property
    def why(self) -> Why:
        """`cause`; one that takes time to find is worked out only here."""
        return self.cause if isinstance(self.cause, Why) else self.cause()

    @property
    def reason(self) -> str:
        return self.why.reason


@dataclass(frozen=True)
class HitDecider:
    """Decides which of the entries near a question may be served.

    `threshold` is the calibrated probability to serve at; `monitor` may require a higher one.
    `verification` is asked about candidates from the probability `uncertain_from` on (None: never).
    `confirmations` is how many other writers must have stored an entry's answer before it is
    served to anybody but its writer; 0 needs none. `served_from` returns the smallest error bound
    at which a probability is served.
    """

    retriever: Retriever
    ledger: Ledger
    weights: Weights
    threshold: float
    monitor: Monitor
    verification: Verification | None = None
    uncertain_from: float | None = None
    confirmations: int = 0
    served_from: Callable[[float], float | None] = lambda probability: None

    def decide(
        self, request: Request, key: Key, vector: Vector, now: float, stages: Stages
    ) -> Decision:
        """Find the entries near `vector`, the question's, and decide; ended stages are appended."""
        while True:
            try:
                near = self.retriever.nearest(key.partition, vector, now, key.exact)
            except IndexUnavailableError as error:
                return Decision(Why("index_not_ready", str(error)))
            stages.append(("retrieve", time.perf_counter()))
            if not near:
                return Decision(Why("expired", "everything stored here has expired"))
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
        why = SERVED["semantic"]
        if best is None:
            best = self._second_opinion(scores, request, stages)
            why = _VERIFIED
            if best is None:
                known_wrong = near[0].entry.known_wrong
                # without the decider: the app may keep the cause longer than the cache
                miss = _Miss(scores, self.weights, self.threshold, self.served_from)
                return Decision(_QUARANTINED if known_wrong else miss.why, near=left, scores=scores)
        elif best.probability < (raised := self.monitor.threshold):
            why = Why("threshold_raised", _RAISED, best.probability, raised)
            return Decision(why, held_back=best, near=left, scores=scores)
        entry = self.ledger.lookups.get(best.neighbour.entry_id, key.partition, now)
        if entry is None:
            return None
        if self._written_for_another(entry, request):
            return Decision(_FOR_ANOTHER, near=left, scores=scores)
        return Decision(why, served=best, entry=entry, near=left, scores=scores)

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


@dataclass(frozen=True)
class _Miss:
    """Candidates of which none reached `threshold`; there is at least one."""

    scores: CandidateScores
    weights: Weights
    threshold: float
    served_from: Callable[[float], float | None]

    def why(self) -> Why:
        first = next(iter(self.scores))
        code, reason = self._what_decided(first)
        served_from = self.served_from(first.probability) if first.neighbour.servable else None
        return Why(code, reason, first.probability, self.threshold, served_from)

    def _what_decided(self, first: ScoredCandidate) -> tuple[LookupCode, str]:
        """What keeps the nearest candidate from being served: that without which it would be."""
        found, doubt, widest = first.differences, first.neighbour.doubt, self.weights.widest
        if not first.neighbour.servable and first.probability >= self.threshold:
            return "not_confirmed", _NOT_CONFIRMED
        words = "; ".join(difference.words for difference in found)
        differs = f"the nearest stored question differs in what decides ({words})"
        if found and self._reaches(first, first.margin, doubt):
            return "deciding_word", differs
        if self._reaches(first, first.margin, 0, found):
            return "reported_wrong", "the nearest entry has given wrong answers before"
        if self._reaches(first, widest, doubt, found):
            return "rival_answer", _RIVALS
        if found and self._reaches(first, widest, 0):
            return "deciding_word", f"{differs}, and other evidence is against it too"
        if self._reaches(first, widest, 0, found):
            return "rival_answer", f"{_RIVALS}, and the nearest has given wrong answers before"
        return "below_threshold", "the nearest stored question is not near enough"

    def _reaches(
        self,
        candidate: ScoredCandidate,
        margin: float,
        doubt: float,
        found: Sequence[Difference] = (),
    ) -> bool:
        """Whether the candidate would reach the threshold with this evidence, not its own."""
        log_odds = self.weights.log_odds(candidate.neighbour.similarity, margin, found) - doubt
        return sigmoid(log_odds) >= self.threshold


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


_QUARANTINED = Why(
    "reported_wrong", "what is stored nearest has answered this question wrongly before"
)
_FOR_ANOTHER = Why("written_for_another", "the nearest answer names the person it was written for")
_VERIFIED = Why("semantic", "a stored question is nearly near enough, and the verifier agreed")
_NOT_CONFIRMED = "the nearest entry is served only exactly, or to its own writer, so far"
_RIVALS = "questions with different answers are stored about equally near"
_RAISED = "the measured error is above the bound, so the audit raised the threshold"
