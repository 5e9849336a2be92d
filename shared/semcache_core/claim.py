"""Of all processes that share a ledger one does a thing at a time."""

import secrets
import time
from contextlib import suppress

import sqlalchemy as sa

from semcache_core.errors import LedgerError
from semcache_core.ledger import Ledger
from semcache_core.schema import meta

SECONDS = 120.0
"""Who shows no sign of life for so long has lost its claim."""


class Claim:
    """A row of the ledger, in which the holder writes a new number at every sign of life.

    A number, and not the time: the clocks of hosts differ. So who finds it taken watches whether it
    changes, by a clock of its own. (A lock on a file holds on one host, one of PostgreSQL in one
    connection, which may break unnoticed.) It is advice: a process that was stopped in the middle
    may go on once it has lost the claim, so what is done under it must be safe without.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._name = name
        self._row = meta.c.name == name
        self._mine = 0
        self._seen, self._since = 0, 0.0

    @property
    def held(self) -> bool:
        """As far as this process knows."""
        return self._mine != 0

    def hold(self) -> bool:
        """Take it, or show that it is still held; False where another process has it."""
        found = self._value()
        free = found in (0, self._mine) or self._is_left(found)
        self._mine = self._take(found) if free else 0
        return self.held

    def release(self) -> None:
        mine, self._mine = self._mine, 0
        if mine:
            with suppress(LedgerError), self._ledger.write() as connection:  # else SECONDS free it
                connection.execute(sa.delete(meta).where(self._row, meta.c.value == mine))

    def _value(self) -> int:
        rows = self._ledger.read(sa.select(meta.c.value).where(self._row), {})
        return int(rows[0][0]) if rows else 0

    def _is_left(self, found: int) -> bool:
        if found != self._seen:
            self._seen, self._since = found, time.monotonic()
        return time.monotonic() - self._since >= SECONDS

    def _take(self, found: int) -> int:
        """A new number in place of the one `found`; 0 if that is not there any more."""
        number = 1 + secrets.randbits(62)
        with self._ledger.write() as connection:
            query = sa.select(meta.c.value).where(self._row)
            if (connection.execute(query).scalar() or 0) != found:
                return 0
            connection.execute(sa.delete(meta).where(self._row))
            connection.execute(sa.insert(meta), {"name": self._name, "value": number})
        return number
