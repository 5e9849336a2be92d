"""Collision hubs: entries that answer questions which have little in common but the entry."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from semcache_core.decision.scoring import Weights
from semcache_core.quality.verdicts import VerdictLog
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Clock, Matrix

log = logging.getLogger("semcache")

MIN_ASKED = 8
"""Fewer different questions than these say too little about an entry."""

MAX_SPREAD = 0.7


@dataclass(frozen=True)
class HubFinder:
    """Finds collision hubs among the entries that were served, and serves them only exactly.

    `embed` gives unit vectors; entries are served from the probability `threshold` on.
    """

    ledger: Ledger
    verdicts: VerdictLog
    embed: Callable[[list[str]], Matrix]
    weights: Weights
    threshold: float
    clock: Clock

    def check(self, entry_id: int) -> None:
        """Embed the questions this entry answered, and decide. Raises SemcacheError."""
        asked = list({hit.asked for hit in self.verdicts.served_of(entry_id)})
        served_at = self.weights.similarity_at(self.threshold)
        if len(asked) >= MIN_ASKED and is_hub(self.embed(asked), served_at):
            self.ledger.entries.serve_only_exactly(entry_id, self.clock())
            log.warning(
                "semcache: entry %d answered %d questions that have little in common, and is from "
                "now on served only exactly; look at it with `semcache inspect --entry %d`",
                entry_id,
                len(asked),
                entry_id,
            )


def is_hub(vectors: Matrix, served_at: float) -> bool:
    """Whether one entry looks like a collision hub: made, or by accident apt, to answer anything.

    `vectors` are the unit vectors [n, dimension] of the *different* questions that the entry was
    served to by meaning; `served_at` is the cosine from which on it is served. Below MIN_ASKED
    questions, or where `served_at` is not within (0, 1), the answer is False.

    An entry draws questions from a cap around it, and what lies in a narrow cap is alike anyway.
    So `spread` is relative to that cap: questions that mean the same lie together within it, those
    of a hub fill it. A bound on the mean cosine itself would have to be found anew for every model
    and every `max_error_rate`. MAX_SPREAD was chosen on 3,000 training questions of Banking77 with
    the shipped model: for bounds from 2 to 20 % it flags some 1 % of ordinary entries or fewer.
    """
    if len(vectors) < MIN_ASKED or not 0 < served_at < 1:
        return False
    return spread(vectors, served_at) > MAX_SPREAD


def spread(vectors: Matrix, served_at: float) -> float:
    """1 - the mean cosine of n >= 2 unit vectors to each other, over 1 - `served_at` squared.

    The square is the mean cosine of many points at a cosine of `served_at` to one point, each in
    a direction of its own: those have a spread of 1, equal vectors one of 0. `served_at` is in
    (0, 1).
    """
    n = len(vectors)
    total = vectors.sum(axis=0, dtype="float64")
    mean_cosine = (float(total @ total) - n) / (n * (n - 1))
    return (1 - mean_cosine) / (1 - served_at**2)
