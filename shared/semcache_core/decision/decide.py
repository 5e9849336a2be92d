"""Whether a stored answer serves a question in other words, and why or why not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from semcache_core.decision.scoring import CandidateScores, Neighbour, ScoredCandidate, sigmoid
from semcache_core.errors import IndexUnavailableError
from semcache_core.observability.metrics import StageTimer, ignore_stage
from semcache_core.pipeline.engine import Engine
from semcache_core.request import Key
from semcache_core.search.retriever import CANDIDATES, Retrieved
from semcache_core.types import Entry, Request, Vector


@dataclass(frozen=True)
class Decision:
    """What comes of the stored answers near a question.

    `served` is the one to serve with its evidence, `entry` it as it is stored. `held_back` is one
    that the calibration would have served and the audit's raised threshold did not. `near` are all
    that were weighed, best first.
    """

    said: str
    served: ScoredCandidate | None = None
    entry: Entry | None = None
    held_back: ScoredCandidate | None = None
    near: tuple[Retrieved, ...] = ()
    judgement: CandidateScores | None = None
    why: Callable[[], str] | None = None

    @property
    def reason(self) -> str:
        """In words; worked out when asked for, as a lookup that misses does not."""
        return self.said or (self.why() if self.why else "")


class HitDecider:
    """Decides over the entries of one partition.

    `confirmations` is how many other writers must have been given an entry's answer before it is
    served to somebody else; 0 asks for none.
    """

    def __init__(self, parts: Engine, confirmations: int) -> None:
        assert parts.calibration is not None and parts.threshold is not None
        self._parts = parts
        self._weights = parts.calibration.judged_by
        self._threshold = parts.threshold
        self._confirmations = confirmations

    def decide(
        self,
        request: Request,
        key: Key,
        vector: Vector,
        now: float,
        ended: StageTimer = ignore_stage,
    ) -> Decision:
        """Look at what is stored near `vector`, that of the question."""
        while True:
            try:
                near = self._parts.retrieval.nearest(key.partition, vector, now, key.exact)
            except IndexUnavailableError as error:
                return Decision(str(error))
            ended("retrieve")
            if not near:
                return Decision("everything stored here has expired")
            decision = self._among(near, request, key, now, ended)
            # None: deleted or replaced by someone else since. See what is there now.
            if decision is not None:
                return decision

    def _among(
        self, near: Sequence[Retrieved], request: Request, key: Key, now: float, ended: StageTimer
    ) -> Decision | None:
        # Left out before anything is weighed: known to be wrong here, such an entry is no rival to
        # the others either.
        left = tuple(one for one in near if not one.entry.known_wrong)
        judgement = self._judgement(left, request, key, complete=len(near) < CANDIDATES)
        best = judgement.best(self._threshold)
        ended("judge")
        reason = "a stored question is near enough"
        if best is None:
            best = self._second_opinion(judgement, request, ended)
            reason = "a stored question is nearly near enough, and the verifier agreed"
            if best is None:
                said = _QUARANTINED if near[0].entry.known_wrong else ""
                return Decision(
                    said, near=left, judgement=judgement, why=lambda: self._why(judgement)
                )
        elif best.probability < self._parts.audit.threshold:
            reason = "the measured error is above the bound, so the audit raised the threshold"
            return Decision(reason, held_back=best, near=left, judgement=judgement)
        entry = self._parts.ledger.lookups.get(best.neighbour.entry_id, key.partition, now)
        if entry is None:
            return None
        return Decision(reason, served=best, entry=entry, near=left, judgement=judgement)

    def _judgement(
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
        return CandidateScores(request.question, neighbours, self._weights, complete)

    def _confirmed(self, near: Sequence[Retrieved], request: Request, key: Key) -> set[int]:
        """The entries that may be served to who asks."""
        if not self._confirmations:
            return {one.entry.id for one in near}
        answers = sorted({one.entry.answer for one in near})
        writers = self._parts.ledger.lookups.writers(answers, key.partition)
        return {
            one.entry.id
            for one in near
            if (request.writer is not None and one.entry.writer == request.writer)
            # who stored it does not confirm it
            or writers.get(one.entry.answer, 0) - (one.entry.writer is not None)
            >= self._confirmations
        }

    def _second_opinion(
        self, judgement: CandidateScores, request: Request, ended: StageTimer
    ) -> ScoredCandidate | None:
        """The best of the uncertain ones, if the verifier takes its answer for right."""
        parts = self._parts
        if parts.verification is None or parts.uncertain_from is None:
            return None
        uncertain = judgement.best(parts.uncertain_from)
        if uncertain is None:
            return None
        answer = parts.ledger.lookups.answer_text(uncertain.neighbour.entry_id)
        if answer is None:
            return None
        stored = uncertain.neighbour.question
        agrees = parts.verification.agrees(request.question, stored, answer)
        ended("verify")
        return uncertain if agrees else None

    def _why(self, judgement: CandidateScores) -> str:
        """Why none of these is served; there is at least one."""
        first = next(iter(judgement))
        if not first.neighbour.servable and first.probability >= self._threshold:
            return "the nearest entry is served only exactly, or to its own writer, so far"
        if first.differences:
            found = "; ".join(difference.words for difference in first.differences)
            return f"the nearest stored question differs in what decides ({found})"
        if self._enough(first, first.margin):
            return "the nearest entry has given wrong answers before"
        if self._enough(first, self._weights.widest):
            return "questions with different answers are stored about equally near"
        return "the nearest stored question is not near enough"

    def _enough(self, judged: ScoredCandidate, margin: float) -> bool:
        """Whether it would be served with this margin, had it no doubt."""
        similarity = judged.neighbour.similarity
        return sigmoid(self._weights.log_odds(similarity, margin)) >= self._threshold


def _answers(near: Sequence[Retrieved]) -> list[int]:
    """The answer of each. Equal words are one answer, also where nobody has compared them: stored
    at the same time, or without a lookup.
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
    """Where the chain of equal answers that starts at `answer` ends."""
    while answer in same:
        answer = same[answer]
    return answer


_QUARANTINED = "what is stored nearest has answered this question wrongly before"
