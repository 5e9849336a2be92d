"""Which collection of a partition is the live one, and what it holds: the ledger's word on it."""

from dataclasses import dataclass

import sqlalchemy as sa

from semcache_core.ledger import Ledger
from semcache_core.schema import indexed, vectors

_GENERATION = (indexed.c.generation, indexed.c.through, indexed.c.added)


@dataclass(frozen=True)
class Generation:
    """The live collection of a partition.

    It holds every vector of the partition up to entry id `through` (0: it is not in use yet);
    `added` vectors were ever written to it, of which Chroma keeps the dead ones too.
    """

    number: int = 0
    through: int = 0
    added: int = 0


class Generations:
    """The live generations of one model's partitions.

    Several processes may change them at once: a change is made only where nobody made another
    since the caller looked, and says whether it was.
    """

    def __init__(self, ledger: Ledger, fingerprint: str) -> None:
        self._ledger = ledger
        self._fingerprint = fingerprint

    def all(self) -> dict[bytes, Generation]:
        """By partition, also those that hold nothing yet."""
        query = sa.select(indexed.c.partition, *_GENERATION).where(
            indexed.c.fingerprint == self._fingerprint
        )
        return {row[0]: Generation(*row[1:]) for row in self._ledger.read(query, {})}

    def advance(self, partition: bytes, at: Generation, to: Generation) -> bool:
        """Note that what was `at` is now `to`, the same generation that holds more."""
        with self._ledger.write() as connection:
            if at == Generation():
                first = sa.insert(indexed).prefix_with("OR IGNORE")
                row = {"partition": partition, "fingerprint": self._fingerprint, "through": 0}
                connection.execute(first, row)
            same = indexed.c.through == at.through
            return self._put(connection, partition, at.number, to, same)

    def swap(self, partition: bytes, old: int, new: Generation) -> bool:
        """Make `new` the live one in place of number `old`, however far that has come."""
        with self._ledger.write() as connection:
            return self._put(connection, partition, old, new, sa.true())

    def forget(self, partition: bytes | None = None, number: int | None = None) -> None:
        """Begin a new, empty generation: of one partition (if `number` is still its live one), or
        of all.
        """
        chosen = [indexed.c.fingerprint == self._fingerprint]
        if partition is not None:
            chosen.append(indexed.c.partition == partition)
        if number is not None:
            chosen.append(indexed.c.generation == number)
        anew = {"generation": indexed.c.generation + 1, "through": 0, "added": 0}
        with self._ledger.write() as connection:
            connection.execute(sa.update(indexed).where(*chosen).values(anew))

    def worn(self, min_dead: int) -> list[bytes]:
        """Partitions whose collection holds more dead entries than live ones, and so many."""
        live = sa.select(sa.func.count()).where(
            indexed.c.partition == vectors.c.partition,
            indexed.c.fingerprint == vectors.c.fingerprint,
            vectors.c.entry_id <= indexed.c.through,
        )
        dead = indexed.c.added - live.scalar_subquery()
        query = sa.select(indexed.c.partition).where(
            indexed.c.fingerprint == self._fingerprint,
            indexed.c.added >= min_dead,  # first: small ones are not counted at all
            dead >= min_dead,
            2 * dead > indexed.c.added,
        )
        return [row[0] for row in self._ledger.read(query, {})]

    def _put(
        self,
        connection: sa.Connection,
        partition: bytes,
        number: int,
        to: Generation,
        if_so: sa.ColumnElement[bool],
    ) -> bool:
        at = (
            indexed.c.partition == partition,
            indexed.c.fingerprint == self._fingerprint,
            indexed.c.generation == number,
        )
        values = {"generation": to.number, "through": to.through, "added": to.added}
        done = connection.execute(sa.update(indexed).where(*at, if_so).values(values))
        return done.rowcount == 1
