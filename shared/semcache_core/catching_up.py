"""What a ledger lacks that an older version wrote, or a cache with another policy."""

from semcache_core.eviction import AT_ONCE, Policy
from semcache_core.ledger import ID_CHUNK, Ledger

_STEPS = 2 + AT_ONCE // ID_CHUNK + 2
"""For a ledger of AT_ONCE entries."""


class CatchingUp:
    """Done a step at a time, each a short transaction: others write in between.

    Begun at each opening; where nothing is lacking it is one pass over an index. What an error
    interrupts goes on from there.
    """

    def __init__(self, ledger: Ledger, policy: Policy) -> None:
        self._ledger = ledger
        self._policy = policy
        self._counted = False
        self._measured_to: int | None = None
        self._ranked_to: int | None = 0
        # at once where that takes no time: until all are ranked, the policy is not followed
        if ledger.space().entries <= AT_ONCE:
            for _ in range(_STEPS):
                if not self.step():
                    break

    def step(self) -> bool:
        """Whether there is more to do."""
        if not self._counted:
            if self._ledger.recount():
                self._measured_to = 0
            self._counted = True
        elif self._measured_to is not None:
            self._measured_to = self._ledger.measure(self._measured_to)
        elif self._ranked_to is not None:  # last, as ranks by cost go by what entries take
            self._ranked_to = self._ledger.rank(self._policy, self._ranked_to)
        return self._measured_to is not None or self._ranked_to is not None
