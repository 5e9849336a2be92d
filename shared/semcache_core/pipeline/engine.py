"""What one process needs to serve a cache, opened and closed together."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from semcache_core._utils.intervals import Measured
from semcache_core.costs import Saved
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.decision.same_answer import SameAnswer, by_meaning
from semcache_core.decision.verifier import Verification, Verifier
from semcache_core.embedding.batching import VectorCache, embed_one
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import ArtefactError
from semcache_core.pipeline.background import BackgroundWorker, HitCounter
from semcache_core.quality.comparisons import AnswerComparer, weight_of
from semcache_core.quality.hubs import MIN_ASKED, is_hub
from semcache_core.quality.monitor import ErrorMonitor
from semcache_core.quality.verdicts import AUDITS, VerdictLog
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.settings import CacheSettings
from semcache_core.storage.eviction import Limits, ignore_evicted
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Clock, Embedder, Matrix, Reason, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

log = logging.getLogger("semcache")

UNCERTAIN = 0.2
"""A verifier is asked from the threshold on that would serve so many wrong ones without it."""

_REBUILD_BATCH = 100


@dataclass(frozen=True)
class Engine:
    """The working parts of an open cache. `threshold` None means: exact repeats only.

    `audit` may raise the threshold; `uncertain_from` is from where on `verification` is asked.
    """

    embedder: Embedder
    recent: VectorCache
    calibration: Calibration | None
    threshold: float | None
    why_exact_only: str
    ledger: Ledger
    limits: Limits
    retrieval: Retriever
    records: VerdictLog
    audit: ErrorMonitor
    watch: AnswerComparer
    verification: Verification | None
    uncertain_from: float | None
    touches: HitCounter
    upkeep: BackgroundWorker

    def measured(self) -> Measured:
        """The error that audits found here; else, where nothing is audited now or an alarm began
        anew, the last that any process found.
        """
        found = self.audit.measured()
        return found if found.n else self.records.measured(self.audit.size)

    def rebuild(self, embed: Callable[[str], Vector | None]) -> int:
        """Re-embed what lacks a vector of the present model, then index anew."""
        with self.upkeep.paused() as indexer:
            indexer.ownership.check()
            renewed = self._re_embed(embed)
            self.retrieval.forget_vectors()
            indexer.rebuild(self.upkeep.stopping)
        self.upkeep.round()
        return renewed

    def _re_embed(self, embed: Callable[[str], Vector | None]) -> int:
        renewed, after = 0, 0
        fingerprint = self.embedder.fingerprint
        while batch := self.ledger.lookups.unembedded(fingerprint, after, _REBUILD_BATCH):
            after = batch[-1][0]
            rows = [(entry_id, embed(question)) for entry_id, question in batch]
            self.ledger.entries.replace_vectors(
                [(i, fingerprint, vector) for i, vector in rows if vector is not None]
            )
            renewed += sum(vector is not None for _, vector in rows)
        return renewed

    def close(self) -> None:
        self.upkeep.stop()


def open_engine(
    settings: CacheSettings,
    embedder: object | None,
    chroma_client: "ClientAPI | None",
    clock: Clock,
    verifier: Verifier | None = None,
    same_answer: SameAnswer | None = None,
    tell_saved: Callable[[Saved], None] = lambda saved: None,
    tell_evicted: Callable[[Reason, int], None] = ignore_evicted,
) -> Engine:
    """Check everything that can be wrong first; only then touch the disk."""
    model, calibration, uncalibrated = _open_model(settings, embedder)
    threshold = calibration.threshold(settings.max_error_rate) if calibration else None
    verification = None if verifier is None else Verification(verifier)
    recent = VectorCache()
    ledger = Ledger.open(settings.path, settings.ledger_url)
    limits = Limits(settings.max_entries, settings.max_bytes, settings.eviction, tell_evicted)
    retrieval = Retriever(
        ledger,
        model.fingerprint,
        settings.scan_limit,
        settings.scan_memory_mb * 2**20,
        None if calibration is None else calibration.dimension,
    )
    home = None
    if chroma_client is None and ledger.file is not None:
        home = EmbeddedIndex(ledger.file.parent)
    indexer = IndexSync(ledger, retrieval, settings.scan_limit, home, chroma_client)
    touches, records = HitCounter(tell_saved), VerdictLog(ledger)
    audit = _audit(settings, threshold, records)

    def embed(texts: list[str]) -> Matrix:
        # not out of `recent`: these are answers, and questions of any tenant
        return np.stack([embed_one(model, text) for text in texts])

    def look_for_hub(entry_id: int) -> None:
        if calibration is None or threshold is None:
            return
        asked = list({hit.asked for hit in records.served_of(entry_id)})
        served_at = calibration.judged_by.similarity_at(threshold)
        if len(asked) >= MIN_ASKED and is_hub(embed(asked), served_at):
            ledger.entries.serve_only_exactly(entry_id, clock())
            log.warning(
                "semcache: entry %d answered %d questions that have little in common, and is from "
                "now on served only exactly; look at it with `semcache inspect --entry %d`",
                entry_id,
                len(asked),
                entry_id,
            )

    upkeep = BackgroundWorker(ledger, limits, touches, records, indexer, clock, look_for_hub)
    return Engine(
        embedder=model,
        recent=recent,
        calibration=calibration,
        threshold=threshold,
        why_exact_only=uncalibrated
        or f"no measured threshold keeps the error within {settings.max_error_rate:.2%}: "
        "only exact repeats are served; raise max_error_rate or calibrate on your own questions",
        ledger=ledger,
        limits=limits,
        retrieval=retrieval,
        records=records,
        audit=audit,
        watch=AnswerComparer(
            ledger, records, audit, same_answer or by_meaning(embed), settings.audit_rate
        ),
        verification=verification,
        uncertain_from=calibration.threshold(UNCERTAIN) if calibration else None,
        touches=touches,
        upkeep=upkeep,
    )


def _audit(settings: CacheSettings, threshold: float | None, records: VerdictLog) -> ErrorMonitor:
    """Goes on from what was measured on this path before, by this process or others.

    Not where nothing is measured from now on: a threshold that was raised could never come down.
    """
    audit = ErrorMonitor(settings.max_error_rate, threshold)
    if not settings.audit_rate and not settings.shadow:
        return audit
    for one in records.judged(sources=AUDITS, last=audit.size):
        audit.add(one.probability, one.correct, weight_of(one.source, settings.audit_rate))
    return audit


def _open_model(
    settings: CacheSettings, embedder: object | None
) -> tuple[Embedder, Calibration | None, str]:
    """The embedder, its calibration, and what to say when it has none."""
    if embedder is None:
        directory = settings.artefact or DEFAULT_ARTEFACT
        calibration = load_calibration(directory)
        return _matching(OnnxEmbedder(directory), calibration, str(directory)), calibration, ""
    model = as_embedder(embedder)
    if settings.artefact is None:
        return (
            model,
            None,
            "the embedder has no calibration of its own, so only exact repeats are served; run "
            'semcache_core.training.calibrate(embedder, "pairs.jsonl", out="DIR") and pass '
            'artefact="DIR"',
        )
    calibration = load_calibration(settings.artefact)
    return _matching(model, calibration, str(settings.artefact)), calibration, ""


def _matching(model: Embedder, calibration: Calibration, where: str) -> Embedder:
    if model.fingerprint != calibration.fingerprint:
        raise ArtefactError(
            f"the calibration in {where} is for the model {calibration.fingerprint[:12]}..., "
            f"the embedder is {model.fingerprint[:12]}...; a probability of one model means "
            "nothing for another: calibrate this one, or restore the artefact's files"
        )
    return model
