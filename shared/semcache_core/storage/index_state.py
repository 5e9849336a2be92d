"""Records which collection of a partition is live in the vector index, and what it holds."""

from collections.abc import Sequence

import sqlalchemy as sa

from semcache_core.storage.database import Database
from semcache_core.storage.schema import IN_PARTITION, indexed, removed, vectors
from semcache_core.types import EMPTY, Generation

_COLUMNS = (indexed.c.generation, indexed.c.through, indexed.c.added, indexed.c.collection)
_ANEW = {"generation": indexed.c.generation + 1, "through": 0, "added": 0, "collection": ""}


class IndexState:
    """The live generations of one model's partitions, EMPTY for a partition without a row.

    Several processes and hosts may write: a change compares with what the caller read, and returns
    whether it was made. Numbers only grow, and each belongs to one collection.
    """

    def __init__(self, database: Database, fingerprint: str) -> None:
        self._database = database
        self._fingerprint = fingerprint

    def all(self) -> dict[bytes, Generation]:
        """All generations by partition, empty ones included."""
        query = sa.select(indexed.c.partition, *_COLUMNS).where(self._of_model)
        return {row[0]: Generation(*row[1:]) for row in self._database.read(query, {})}

    def advance(self, partition: bytes, was: Generation, now: Generation) -> bool:
        """Replace `was` by `now`: the same collection holds more."""
        with self._database.write() as connection:
            if self._at(connection, partition) != was:
                return False
            self._put(connection, partition, now)
            return True

    def swap(self, partition: bytes, old: int, new: Generation) -> bool:
        """Replace number `old`, whatever it holds, by `new`."""
        with self._database.write() as connection:
            if self._at(connection, partition).number != old:
                return False
            self._put(connection, partition, new)
            return True

    def forget(self, partition: bytes, was: Generation) -> bool:
        """Begin a new, empty generation."""
        return self.advance(partition, was, Generation(was.number + 1))

    def forget_all(self) -> None:
        with self._database.write() as connection:
            connection.execute(sa.update(indexed).where(self._of_model).values(_ANEW))

    def worn(self, min_dead: int) -> list[bytes]:
        """Partitions whose collection holds at least `min_dead` dead entries, and fewer live."""
        live = sa.select(sa.func.count()).where(
            IN_PARTITION, vectors.c.entry_id <= indexed.c.through
        )
        dead = indexed.c.added - live.scalar_subquery()
        query = sa.select(indexed.c.partition).where(
            self._of_model,
            indexed.c.added >= min_dead,  # first: small ones are not counted at all
            dead >= min_dead,
            2 * dead > indexed.c.added,
        )
        return [row[0] for row in self._database.read(query, {})]

    def count_vectors(self, partition: bytes, through: int) -> int:
        query = sa.select(sa.func.count()).where(
            vectors.c.partition == partition,
            vectors.c.fingerprint == self._fingerprint,
            vectors.c.entry_id <= through,
        )
        return int(self._database.read(query, {})[0][0])

    def take_removed(self, limit: int = 300) -> dict[bytes, list[int]]:
        """Take up to `limit` deleted entries, by partition, off the list for the index."""
        query = sa.select(removed.c.partition, removed.c.entry_id)
        query = query.order_by(removed.c.entry_id).limit(limit)
        if not (rows := self._database.read(query, {})):
            return {}
        with self._database.write() as connection:
            taken = [row.entry_id for row in rows]
            connection.execute(sa.delete(removed).where(removed.c.entry_id.in_(taken)))
        by_partition: dict[bytes, list[int]] = {}
        for row in rows:
            by_partition.setdefault(row.partition, []).append(row.entry_id)
        return by_partition

    def large_partitions(self, above: int) -> list[bytes]:
        query = (
            sa.select(vectors.c.partition)
            .where(vectors.c.fingerprint == self._fingerprint)
            .group_by(vectors.c.partition)
            .having(sa.func.count() > above)
        )
        return [row[0] for row in self._database.read(query, {})]

    def not_indexed(self, above: int) -> int:
        """Count vectors that the index lacks, of partitions that it holds or that have more than
        `above` vectors.
        """
        behind = vectors.c.entry_id > sa.func.coalesce(indexed.c.through, 0)
        counted = (
            sa.select(sa.func.sum(sa.case((behind, 1), else_=0)))
            .select_from(vectors)
            .outerjoin(indexed, IN_PARTITION)
            .where(vectors.c.fingerprint == self._fingerprint)
            .group_by(vectors.c.partition)
            .having(sa.or_(sa.func.count() > above, sa.func.max(indexed.c.through) > 0))
        )
        return sum(int(row[0]) for row in self._database.read(counted, {}))

    @property
    def _of_model(self) -> sa.ColumnElement[bool]:
        return indexed.c.fingerprint == self._fingerprint

    def _at(self, connection: sa.Connection, partition: bytes) -> Generation:
        query = sa.select(*_COLUMNS).where(self._of_model, indexed.c.partition == partition)
        found = connection.execute(query).first()
        return EMPTY if found is None else Generation(*found)

    def _put(self, connection: sa.Connection, partition: bytes, now: Generation) -> None:
        of = sa.and_(self._of_model, indexed.c.partition == partition)
        connection.execute(sa.delete(indexed).where(of))
        row = {"partition": partition, "fingerprint": self._fingerprint, "generation": now.number}
        held = {"through": now.through, "added": now.added, "collection": now.collection}
        connection.execute(sa.insert(indexed), row | held)


def reset(connection: sa.Connection, entry_ids: Sequence[int]) -> None:
    """Start a new generation for the partitions of entries whose vectors were replaced.

    Runs in the transaction of the new vectors, as a crash in between would hide these entries for
    good. Also for partitions without a row: another process may be about to write one.
    """
    changed = (
        sa.select(vectors.c.partition, vectors.c.fingerprint)
        .where(vectors.c.entry_id.in_(entry_ids))
        .distinct()
    )
    for partition, fingerprint in connection.execute(changed).all():
        of = {"partition": partition, "fingerprint": fingerprint}
        one = sa.update(indexed).where(*(indexed.c[name] == value for name, value in of.items()))
        if not connection.execute(one.values(_ANEW)).rowcount:
            connection.execute(sa.insert(indexed), {**of, "generation": 1, "through": 0})
