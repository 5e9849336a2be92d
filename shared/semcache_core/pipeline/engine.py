"""Builds and holds the components of an open cache."""

import pickle
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from semcache_core._utils.intervals import Measured
from semcache_core.admission import Admission
from semcache_core.costs import Prices
from semcache_core.decision.calibration import Calibration, load_calibration
from semcache_core.decision.decide import HitDecider
from semcache_core.decision.same_answer import SameAnswer, by_meaning
from semcache_core.decision.verifier import Verification, Verifier
from semcache_core.embedding.batching import VectorCache, embed_one
from semcache_core.embedding.cpu import usable_cores
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.embedding.questions import QuestionEmbedder
from semcache_core.embedding.wrappers import as_embedder
from semcache_core.errors import ArtefactError, SettingsError
from semcache_core.observability.metrics import Telemetry
from semcache_core.pipeline.background import BackgroundWorker, HitCounter
from semcache_core.pipeline.counters import Counters
from semcache_core.quality.comparisons import AnswerComparer, weight_of
from semcache_core.quality.hubs import HubFinder
from semcache_core.quality.monitor import ErrorMonitor
from semcache_core.quality.verdicts import AUDITS, VerdictLog
from semcache_core.search.embedded import EmbeddedIndex
from semcache_core.search.retriever import Retriever
from semcache_core.search.sync import IndexSync
from semcache_core.settings import CacheSettings
from semcache_core.storage.eviction import Limits
from semcache_core.storage.ledger import Ledger
from semcache_core.types import Clock, Embedder, Matrix, Vector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

UNCERTAIN = 0.2
"""The error rate whose threshold is the one from which on a verifier is asked."""

_REBUILD_BATCH = 100


@dataclass(frozen=True)
class EngineOptions:
    """What the app gave to its cache; see the arguments of `SemanticCache`."""

    settings: CacheSettings
    clock: Clock
    embedder: object | None
    chroma_client: "ClientAPI | None"
    verifier: Verifier | None
    same_answer: SameAnswer | None
    admission: Admission
    prices: Prices


def picklable_arguments(options: EngineOptions) -> dict[str, Any]:
    """The arguments of a `SemanticCache` that is the same in another process.

    Raises SettingsError for one that cannot be pickled.
    """
    given = {
        "embedder": options.embedder,
        "chroma_client": options.chroma_client,
        "clock": options.clock,
        "verifier": options.verifier,
        "same_answer": options.same_answer,
        "admit": options.admission.admit,
        "redact": options.admission.redact,
        "prices": options.prices,
    }
    for name, value in given.items():
        try:
            pickle.dumps(value)
        except Exception as error:  # noqa: BLE001 - whatever an argument's own code raises
            raise SettingsError(
                f"a cache with {name}={value!r} cannot be pickled: {error}; give a function or "
                "class of a module, or open a cache in the other process"
            ) from None
    return {**options.settings.model_dump(), **given}


@dataclass(frozen=True)
class Engine:
    """The components of an open cache.

    `decider` is None where only exact repeats are served, and `why_exact_only` says why.
    `threshold` is the calibrated one, `max_tokens` the longest question matched by meaning. `gate`
    is held while a question is embedded and decided.
    """

    settings: CacheSettings
    clock: Clock
    admission: Admission
    prices: Prices
    telemetry: Telemetry
    counters: Counters
    embedder: QuestionEmbedder
    vector_cache: VectorCache
    max_tokens: int
    threshold: float | None
    decider: HitDecider | None
    why_exact_only: str
    gate: AbstractContextManager[object]
    ledger: Ledger
    limits: Limits
    retriever: Retriever
    verdicts: VerdictLog
    monitor: ErrorMonitor
    comparer: AnswerComparer
    verification: Verification | None
    hit_counter: HitCounter
    background: BackgroundWorker

    def measured(self) -> Measured:
        """The error that audits found in this process; the last that any process found, where this
        one found none yet or an alarm has just reset it.
        """
        found = self.monitor.measured()
        return found if found.n else self.verdicts.measured(self.monitor.size)

    def served_at(self) -> float | None:
        """The probability to serve at now; None where only exact repeats are served."""
        return None if self.threshold is None else self.monitor.threshold

    def rebuild(self, embed: Callable[[str], Vector | None]) -> int:
        """Embed what lacks a vector of the present model, then build the index anew."""
        with self.background.paused() as index_sync:
            index_sync.ownership.check()
            embedded = self._embed_missing(embed)
            self.retriever.forget_vectors()
            index_sync.rebuild(self.background.stopping)
        self.background.round()
        return embedded

    def _embed_missing(self, embed: Callable[[str], Vector | None]) -> int:
        embedded, after = 0, 0
        fingerprint = self.embedder.fingerprint
        while batch := self.ledger.lookups.unembedded(fingerprint, after, _REBUILD_BATCH):
            after = batch[-1][0]
            rows = [(entry_id, embed(question)) for entry_id, question in batch]
            self.ledger.entries.replace_vectors(
                [(i, fingerprint, vector) for i, vector in rows if vector is not None]
            )
            embedded += sum(vector is not None for _, vector in rows)
        return embedded

    def close(self) -> None:
        """Stop the background thread; it writes what is pending and closes the files."""
        self.background.stop()


def open_engine(options: EngineOptions, telemetry: Telemetry, counters: Counters) -> Engine:
    """Check everything that can be wrong first; only then touch the disk.

    Raises SemcacheError.
    """
    settings, clock = options.settings, options.clock
    model, calibration, why_exact_only = _open_model(settings, options.embedder)
    threshold = calibration.threshold(settings.max_error_rate) if calibration else None
    verification = None if options.verifier is None else Verification(options.verifier)

    def embed(texts: list[str]) -> Matrix:
        # not from the vector cache: these are answers, and questions of any tenant
        return np.stack([embed_one(model, text) for text in texts])

    ledger = Ledger.open(settings.path, settings.ledger_url)
    limits = Limits(settings.max_entries, settings.max_bytes, settings.eviction, telemetry.evicted)
    dimension = None if calibration is None else calibration.dimension
    memory = settings.scan_memory_mb * 2**20
    retriever = Retriever(ledger, model.fingerprint, settings.scan_limit, memory, dimension)
    index_sync = _index_sync(options, ledger, retriever)
    verdicts = VerdictLog(ledger)
    hit_counter = HitCounter(telemetry.saved, counters.counted, settings.max_error_rate)
    monitor = _monitor(settings, threshold, verdicts)
    decider = _decider(settings, calibration, ledger, retriever, monitor, verification)
    hubs = None
    if decider is not None:
        hubs = HubFinder(ledger, verdicts, embed, decider.weights, decider.threshold, clock)
    background = BackgroundWorker(ledger, limits, hit_counter, verdicts, index_sync, clock, hubs)
    same_answer = options.same_answer or by_meaning(embed)
    return Engine(
        settings=settings,
        clock=clock,
        admission=options.admission,
        prices=options.prices,
        telemetry=telemetry,
        counters=counters,
        # another model may read another language
        embedder=QuestionEmbedder(
            model, english=options.embedder is None and settings.artefact is None
        ),
        vector_cache=VectorCache(),
        max_tokens=0 if calibration is None else calibration.max_tokens,
        threshold=threshold,
        decider=decider,
        why_exact_only=why_exact_only or _no_threshold(settings),
        gate=_gate(options),
        ledger=ledger,
        limits=limits,
        retriever=retriever,
        verdicts=verdicts,
        monitor=monitor,
        comparer=AnswerComparer(ledger, verdicts, monitor, same_answer, settings.audit_rate),
        verification=verification,
        hit_counter=hit_counter,
        background=background,
    )


def _decider(
    settings: CacheSettings,
    calibration: Calibration | None,
    ledger: Ledger,
    retriever: Retriever,
    monitor: ErrorMonitor,
    verification: Verification | None,
) -> HitDecider | None:
    """What decides by meaning; None without a calibration that has a threshold for the bound."""
    threshold = None if calibration is None else calibration.threshold(settings.max_error_rate)
    if calibration is None or threshold is None:
        return None
    return HitDecider(
        retriever=retriever,
        ledger=ledger,
        weights=calibration.judged_by,
        threshold=threshold,
        monitor=monitor,
        verification=verification,
        uncertain_from=calibration.threshold(UNCERTAIN),
        confirmations=settings.confirmations,
        served_from=calibration.served_from,
    )


def _no_threshold(settings: CacheSettings) -> str:
    return (
        f"no measured threshold keeps the error within {settings.max_error_rate:.2%}: "
        "only exact repeats are served; raise max_error_rate or calibrate on your own questions"
    )


def _index_sync(options: EngineOptions, ledger: Ledger, retriever: Retriever) -> IndexSync:
    home = None
    if options.chroma_client is None and ledger.file is not None:
        home = EmbeddedIndex(ledger.file.parent)
    limit = options.settings.scan_limit
    return IndexSync(ledger, retriever, limit, home, options.chroma_client)


def _gate(options: EngineOptions) -> AbstractContextManager[object]:
    """Lets in no more lookups by meaning at once than the machine can work on: 32 threads that
    fight for the interpreter's lock made 320 lookups a second on two cores, taking turns 420.
    None are held back for a user's embedder or a verifier, which may be waiting for a network.
    """
    own = options.embedder is None and options.verifier is None
    return threading.Semaphore(usable_cores() + 1) if own else nullcontext()


def _monitor(
    settings: CacheSettings, threshold: float | None, verdicts: VerdictLog
) -> ErrorMonitor:
    """A monitor that goes on from the verdicts on this path, of this process or others.

    Where nothing is measured from now on it starts without them: a threshold that they raised
    could never come down.
    """
    monitor = ErrorMonitor(settings.max_error_rate, threshold)
    if not settings.audit_rate and not settings.shadow:
        return monitor
    for one in verdicts.judged(sources=AUDITS, last=monitor.size):
        monitor.add(one.probability, one.correct, weight_of(one.source, settings.audit_rate))
    return monitor


def _open_model(
    settings: CacheSettings, embedder: object | None
) -> tuple[Embedder, Calibration | None, str]:
    """Embedder and calibration; the text says why only exact repeats are served if it has none."""
    if embedder is None:
        directory = settings.artefact or DEFAULT_ARTEFACT
        calibration = load_calibration(directory)
        onnx = OnnxEmbedder(directory)
        if onnx.fingerprint != calibration.fingerprint:
            OnnxEmbedder.load(directory)  # a model that is cut off is no other model: this says so
        return _matching(onnx, calibration, str(directory)), calibration, ""
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
