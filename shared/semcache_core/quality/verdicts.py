"""The log of hits by meaning, the verdicts on them, and the quarantine of wrong pairs."""

import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

import sqlalchemy as sa

from semcache_core._utils.intervals import Measured
from semcache_core.errors import SemcacheError
from semcache_core.quality import entry_trust
from semcache_core.storage import schema
from semcache_core.storage.ledger import Ledger
from semcache_core.storage.lookups import ID_CHUNK

BUFFERED = 10_000
KEPT_PER_ENTRY = 50
KEPT = 20_000

Source: TypeAlias = Literal["feedback", "audit", "shadow", "verifier"]
"""Who gave a verdict: the app, an audit, shadow mode, a verifier."""

AUDITS: tuple[Source, ...] = ("audit", "shadow")
"""The sources that compared with a fresh answer of the model."""


@dataclass(frozen=True)
class ServedHit:
    """One answer served by meaning: the entry, what was asked and with how much confidence.

    `asked_key` is the exact key of the request, 32 bytes; `similarity` a cosine; `probability` what
    the calibration says of it, before any doubt; `at` is in seconds since the epoch.
    """

    entry_id: int
    asked: str
    asked_key: bytes
    similarity: float
    probability: float
    at: float


@dataclass(frozen=True)
class Verdict:
    """Whether an entry's answer was right for the question `asked`; `stored` is the entry's own.

    `source` is who judged, the others are as in `ServedHit`.
    """

    namespace: str
    entry_id: int
    asked: str
    stored: str
    similarity: float
    probability: float
    correct: bool
    source: Source
    at: float


class VerdictLog:
    """Hits by meaning and verdicts in one ledger, of all processes that share it.

    Every method but `served` raises LedgerError when the ledger fails.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._buffer: deque[ServedHit] = deque(maxlen=BUFFERED)

    # -- the log of hits by meaning ------------------------------------------------------------

    def served(self, hit: ServedHit) -> None:
        """Log a hit, in memory: a lookup never waits for a write.

        While the ledger cannot be written the last BUFFERED hits are kept.
        """
        with self._lock:
            self._buffer.append(hit)

    def flush(self) -> set[int]:
        """Write the logged hits; returns their entries' ids. After an error they stay in memory.

        The last KEPT_PER_ENTRY hits of each entry are kept, and the last KEPT of all. A hit of a
        deleted entry is dropped.
        """
        with self._flushing:
            with self._lock:
                noted, self._buffer = self._buffer, deque(maxlen=BUFFERED)
            if not noted:
                return set()
            try:
                self._write(list(noted))
            except SemcacheError:
                with self._lock:
                    self._buffer = deque([*noted, *self._buffer], maxlen=BUFFERED)
                raise
            return {hit.entry_id for hit in noted}

    def _write(self, noted: Sequence[ServedHit]) -> None:
        with self._ledger.write() as connection:
            for start in range(0, len(noted), ID_CHUNK):
                _log(connection, noted[start : start + ID_CHUNK])
            surplus = connection.execute(_COUNT_SERVED).scalar_one() - KEPT
            if surplus > 0:
                connection.execute(_DROP_OLDEST, {"surplus": surplus})

    def served_of(self, entry_id: int) -> list[ServedHit]:
        """The hits of this entry that are kept, written or not, oldest first."""
        with self._flushing:  # else one on its way to the ledger would be seen twice, or not at all
            rows = self._ledger.read(_SERVED_OF, {"entry": entry_id})
            with self._lock:
                noted = [hit for hit in self._buffer if hit.entry_id == entry_id]
        # by time, as other processes write in between
        return sorted([*(ServedHit(*row) for row in rows), *noted], key=lambda hit: hit.at)

    def last_served(self, entry_id: int) -> ServedHit | None:
        """The last hit of this entry, written or not; None when none is known."""
        hits = self.served_of(entry_id)
        return hits[-1] if hits else None

    def claimed_error(self) -> float | None:
        """Mean of 1 - P over the logged hits, written or not; None when there are none."""
        with self._flushing:
            ((count, total),) = self._ledger.read(_CLAIMED, {})
            with self._lock:
                noted = [1 - hit.probability for hit in self._buffer]
        count += len(noted)
        return float(((total or 0.0) + sum(noted)) / count) if count else None

    # -- verdicts ------------------------------------------------------------------------------

    def judge(self, judgement: Verdict, asked_key: bytes | None = None) -> None:
        """Keep a verdict, and update the doubt of its entry. Durable when it returns.

        The doubt is computed from all verdicts on the entry. If the answer was wrong, the entry is
        quarantined for the request with the exact key `asked_key`, if given; a later right answer
        does not lift that. For a deleted entry only the verdict is kept.
        """
        entry = {"entry": judgement.entry_id}
        with self._ledger.write() as connection:
            connection.execute(sa.insert(schema.judged), vars(judgement))
            if connection.execute(_STORED, entry).first() is None:
                return
            if asked_key is not None and not judgement.correct:
                pair = {"asked_key": asked_key, "entry_id": judgement.entry_id}
                # not "or ignore", which each database says in words of its own; writers take turns
                if connection.execute(_QUARANTINED, pair).first() is None:
                    connection.execute(sa.insert(schema.quarantined), pair)
            evidence = connection.execute(_EVIDENCE, entry).all()
            found = entry_trust.doubt([(row.probability, row.correct) for row in evidence])
            connection.execute(_SET_DOUBT, {**entry, "found": found})

    def judged(
        self,
        namespace: str | None = None,
        since: float | None = None,
        sources: Collection[Source] | None = None,
        last: int | None = None,
    ) -> list[Verdict]:
        """The verdicts that meet every condition given, in the order they were written.

        `since` is in seconds since the epoch, and that moment belongs to it. With `last`, only so
        many of them, the newest.
        """
        query = sa.select(*_JUDGEMENT).order_by(schema.judged.c.id.desc()).limit(last)
        if namespace is not None:
            query = query.where(schema.judged.c.namespace == namespace)
        if since is not None:
            query = query.where(schema.judged.c.at >= since)
        if sources is not None:
            query = query.where(schema.judged.c.source.in_(list(sources)))
        return [Verdict(*row) for row in reversed(self._ledger.read(query, {}))]

    def measured(self, last: int) -> Measured:
        """The error in the last verdicts of audits and shadow mode, by any process."""
        judged = self.judged(sources=AUDITS, last=last)
        return Measured.of(len(judged), sum(not one.correct for one in judged))

    def stored(self, entry_id: int) -> tuple[str, str] | None:
        """Namespace and question of an entry, for its verdict; None when it is gone."""
        rows = self._ledger.read(_STORED, {"entry": entry_id})
        return (rows[0].namespace, rows[0].question) if rows else None


# Built once: SQLAlchemy then finds their compiled form in its cache by identity.
_SERVED = [schema.served.c[field.name] for field in fields(ServedHit)]
_JUDGEMENT = [schema.judged.c[field.name] for field in fields(Verdict)]
_OF_ENTRY = schema.served.c.entry_id == sa.bindparam("entry")
_SERVED_OF = sa.select(*_SERVED).where(_OF_ENTRY).order_by(schema.served.c.id)
_COUNT_SERVED = sa.select(sa.func.count()).select_from(schema.served)
_CLAIMED = sa.select(sa.func.count(), sa.func.sum(1 - schema.served.c.probability))
_DROP_OLDEST = sa.delete(schema.served).where(
    schema.served.c.id.in_(
        sa.select(schema.served.c.id)
        .order_by(schema.served.c.id)
        .limit(sa.bindparam("surplus", type_=sa.BigInteger))
    )
)
_DROP_OLDEST_OF_ENTRY = sa.delete(schema.served).where(
    _OF_ENTRY,
    schema.served.c.id.in_(
        sa.select(schema.served.c.id)
        .where(_OF_ENTRY)
        .order_by(schema.served.c.id.desc())
        .offset(KEPT_PER_ENTRY)
    ),
)
_STORED = sa.select(schema.entries.c.namespace, schema.entries.c.question).where(
    schema.entries.c.id == sa.bindparam("entry")
)
_QUARANTINED = sa.select(schema.quarantined.c.entry_id).where(
    schema.quarantined.c.asked_key == sa.bindparam("asked_key"),
    schema.quarantined.c.entry_id == sa.bindparam("entry_id"),
)
_EVIDENCE = sa.select(schema.judged.c.probability, schema.judged.c.correct).where(
    schema.judged.c.entry_id == sa.bindparam("entry")
)
_SET_DOUBT = (
    sa.update(schema.entries)
    .where(schema.entries.c.id == sa.bindparam("entry"))
    .values(doubt=sa.bindparam("found"))
)


def _log(connection: sa.Connection, noted: Sequence[ServedHit]) -> None:
    """Write hits of entries that still exist, and drop the oldest hits of these entries."""
    ids = {hit.entry_id for hit in noted}
    here = sa.select(schema.entries.c.id).where(schema.entries.c.id.in_(ids))
    present = set(connection.execute(here).scalars())
    if rows := [vars(hit) for hit in noted if hit.entry_id in present]:
        connection.execute(sa.insert(schema.served), rows)
        connection.execute(_DROP_OLDEST_OF_ENTRY, [{"entry": entry_id} for entry_id in present])
