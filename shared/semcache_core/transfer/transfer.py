"""Writes entries to a file, and stores those of a file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from semcache_core._utils.files import write_whole
from semcache_core.admission import Admission
from semcache_core.decision.same_answer import answer_digest
from semcache_core.embedding.batching import embed_all
from semcache_core.errors import SemcacheError
from semcache_core.request import key_of
from semcache_core.storage.entries import ImportedEntry, NewEntry
from semcache_core.storage.eviction import Limits
from semcache_core.storage.ledger import Ledger
from semcache_core.transfer.entries import Listing
from semcache_core.transfer.jsonl import (
    MAX_LINE_BYTES,
    EntriesFile,
    Header,
    LogLine,
    entry_line,
    header_line,
)
from semcache_core.types import Embedder, Request

BATCH = 500
BATCH_BYTES = 8 * 2**20
_EMBEDDED_AT_ONCE = 64

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many entries are done and how many there are."""


@dataclass(frozen=True)
class Exported:
    """What was written: `entries`, of them `vectors` with a vector; lines that are too long to be
    read were `left_out`.
    """

    entries: int
    vectors: int
    left_out: int


def write_entries(
    ledger: Ledger,
    file: str | Path,
    now: float,
    namespace: str | None = None,
    fingerprint: str | None = None,
) -> Exported:
    """Write the live entries of a namespace, or of all, to a private file, with their vectors of
    the model `fingerprint`.
    """
    listing = Listing(ledger)
    model = next((one for one in listing.models() if one.fingerprint == fingerprint), None)
    header = Header(
        exported=now,
        fingerprint=None if model is None else model.fingerprint,
        dimension=None if model is None else model.dimension,
    )
    entries = vectors = left_out = 0

    def lines() -> Iterator[bytes]:
        nonlocal entries, vectors, left_out
        yield header_line(header)
        for entry in listing.oldest_first(now, namespace):
            with_vector = model is not None and entry.fingerprint == model.fingerprint
            line = entry_line(entry, with_vector)
            if len(line) > MAX_LINE_BYTES:
                left_out += 1
                continue
            entries += 1
            vectors += with_vector
            yield line

    write_whole(file, lines(), private=True)
    return Exported(entries, vectors, left_out)


@dataclass(frozen=True)
class Imported:
    """Counts of an import: entries `read`, `stored`, already `present` (as new or newer),
    `expired`, `refused` by `admit`, `redact` or a limit, and `embedded` here.
    """

    read: int = 0
    stored: int = 0
    present: int = 0
    expired: int = 0
    refused: int = 0
    embedded: int = 0

    def plus(self, other: "Imported") -> "Imported":
        mine, more = vars(self).values(), vars(other).values()
        return Imported(*(one + another for one, another in zip(mine, more, strict=True)))


@dataclass(frozen=True)
class Importer:
    """Stores the entries of a file in a ledger.

    `namespace` and `ttl` (seconds) are defaults for a log. With an `embedder`, entries whose
    question is `readable` get a vector of its model, the file's where it has one; without an
    embedder entries keep the vectors of the file.
    """

    ledger: Ledger
    admission: Admission
    embedder: Embedder | None
    readable: Callable[[str], bool]
    namespace: str
    ttl: float | None
    limits: Limits
    too_large: Callable[[NewEntry], bool]
    now: float

    def take(self, source: EntriesFile, progress: Progress | None = None) -> Imported:
        """Validate the whole file, then store it, a batch per transaction.

        An import that was interrupted can be repeated. Raises SemcacheError for an invalid file,
        of which nothing is stored.
        """
        total = source.check()
        self._check_model(source.header)
        done = Imported()
        for batch in _batches(source):
            done = done.plus(self._store(batch, source.header))
            if progress is not None:
                progress(done.read, total)
        return done

    def _check_model(self, header: Header | None) -> None:
        """Vectors of one model must be of one length: lookups read them as one matrix."""
        if header is None or header.fingerprint is None:
            return
        known = {one.fingerprint: one.dimension for one in Listing(self.ledger).models()}
        if self.embedder is not None:
            known[self.embedder.fingerprint] = self.embedder.dimension
        if (dimension := known.get(header.fingerprint, header.dimension)) != header.dimension:
            raise SemcacheError(
                f"the file says that vectors of the model {header.fingerprint[:12]} have "
                f"{header.dimension} numbers, here they have {dimension}; export without vectors"
            )

    def _store(self, batch: Sequence[LogLine], header: Header | None) -> Imported:
        arrivals = [self._arrival(one, header) for one in batch]
        live = [one for one in arrivals if one.expires is None or one.expires > self.now]
        # first, so that a repeated import embeds nothing twice
        awaited = self.ledger.entries.awaited(live, self.now)
        new = [one for one, wanted in zip(live, awaited, strict=True) if wanted]
        admitted = [one for one in map(self._admitted, new) if one and not self.too_large(one)]
        ready, embedded = self._with_vectors(admitted)
        stored = self.ledger.entries.insert_newer(ready, self.now, self.limits)
        return Imported(
            read=len(batch),
            stored=stored,
            present=len(live) - len(new) + len(ready) - stored,
            expired=len(arrivals) - len(live),
            refused=len(new) - len(admitted),
            embedded=embedded,
        )

    def _arrival(self, line: LogLine, header: Header | None) -> ImportedEntry:
        key = key_of(Request(line.question, line.scope, line.namespace), self.namespace)
        created = self.now if line.created is None else line.created
        expires = line.expires
        if header is None and expires is None and self.ttl is not None:
            expires = created + self.ttl
        fields = dict(line)  # named as in the record, but for `answer`
        fields |= {
            "answer_text": fields.pop("answer"),
            "exact": key.exact,
            "partition": key.partition,
            "namespace": key.namespace,
            "created": created,
            "expires": expires,
            "dated": line.created is not None,
            "fingerprint": None if header is None else header.fingerprint,
        }
        if line.exact_only:  # whatever the file says: with a vector it would be found by meaning
            fields["vector"] = None
        return ImportedEntry(**fields)

    def _admitted(self, new: ImportedEntry) -> ImportedEntry | None:
        """The entry as admitted and redacted, with its answer's digest; None if refused."""
        request = Request(
            new.question, new.scope, new.namespace, new.exact_only, new.tags, new.writer
        )
        admitted = self.admission.admitted(request, new.response, wraps=new.answer_text is not None)
        if admitted is None:
            return None
        text = None if new.answer_text is None else self.admission.text(new.answer_text)
        said = admitted.response if text is None else text
        return replace(
            new, response=admitted.response, answer_text=text, answer_digest=answer_digest(said)
        )

    def _with_vectors(self, entries: list[ImportedEntry]) -> tuple[list[ImportedEntry], int]:
        """The entries with their final vectors, and how many of these were made here."""
        if self.embedder is None:
            return entries, 0
        own = self.embedder.fingerprint
        ready, bare = [], []
        for n, entry in enumerate(entries):
            by_meaning = not entry.exact_only and self.readable(entry.question)
            keeps = by_meaning and entry.fingerprint == own
            ready.append(entry if keeps else replace(entry, vector=None, fingerprint=own))
            if by_meaning and ready[n].vector is None:
                bare.append(n)
        for start in range(0, len(bare), _EMBEDDED_AT_ONCE):
            chunk = bare[start : start + _EMBEDDED_AT_ONCE]
            rows = embed_all(self.embedder, [ready[n].question for n in chunk])
            for n, vector in zip(chunk, rows, strict=True):
                ready[n] = replace(ready[n], vector=vector)
        return ready, len(bare)


def _batches(source: EntriesFile) -> Iterator[list[LogLine]]:
    """Up to BATCH entries or BATCH_BYTES: that much is in memory at once."""
    batch: list[LogLine] = []
    taken = 0
    for entry, size in source:
        batch.append(entry)
        taken += size
        if len(batch) == BATCH or taken >= BATCH_BYTES:
            yield batch
            batch, taken = [], 0
    if batch:
        yield batch
