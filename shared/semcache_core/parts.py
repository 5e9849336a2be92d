"""What one process needs to serve a cache, opened and closed together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from semcache_core.embedding import DEFAULT_ARTEFACT, OnnxEmbedder, RecentVectors, as_embedder
from semcache_core.errors import ArtefactError
from semcache_core.index import IndexHome
from semcache_core.indexer import Indexer
from semcache_core.ledger import Ledger
from semcache_core.predictor import Calibration, load_calibration
from semcache_core.retrieval import Retrieval
from semcache_core.settings import CacheSettings
from semcache_core.types import Clock, Embedder, Vector
from semcache_core.upkeep import Touches, Upkeep

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_REBUILD_BATCH = 100


@dataclass(frozen=True)
class Parts:
    """The working parts of an open cache. `threshold` None means: exact repeats only."""

    embedder: Embedder
    recent: RecentVectors
    calibration: Calibration | None
    threshold: float | None
    why_exact_only: str
    ledger: Ledger
    retrieval: Retrieval
    touches: Touches
    upkeep: Upkeep

    def rebuild(self, embed: Callable[[str], Vector | None]) -> int:
        """Re-embed what lacks a vector of the present model, then index anew."""
        with self.upkeep.paused() as indexer:
            indexer.begin_anew()
            renewed = self._re_embed(embed)
            self.retrieval.renewed()
        self.upkeep.round()
        return renewed

    def _re_embed(self, embed: Callable[[str], Vector | None]) -> int:
        renewed, after = 0, 0
        fingerprint = self.embedder.fingerprint
        while batch := self.ledger.unembedded(fingerprint, after, _REBUILD_BATCH):
            after = batch[-1][0]
            rows = [(entry_id, embed(question)) for entry_id, question in batch]
            self.ledger.replace_vectors(
                [(i, fingerprint, vector) for i, vector in rows if vector is not None]
            )
            renewed += sum(vector is not None for _, vector in rows)
        return renewed

    def close(self) -> None:
        self.upkeep.stop()


def open_parts(
    settings: CacheSettings,
    embedder: object | None,
    chroma_client: "ClientAPI | None",
    clock: Clock,
) -> Parts:
    """Check everything that can be wrong first; only then touch the disk."""
    model, calibration, uncalibrated = _open_model(settings, embedder)
    threshold = calibration.threshold(settings.max_error_rate) if calibration else None
    ledger = Ledger.open(settings.path, settings.ledger_url)
    retrieval = Retrieval(
        ledger, model.fingerprint, settings.scan_limit, settings.scan_memory_mb * 2**20
    )
    home = None
    if chroma_client is None and ledger.file is not None:
        home = IndexHome(ledger.file.parent)
    indexer = Indexer(ledger, retrieval, settings.scan_limit, home, chroma_client)
    touches = Touches()
    upkeep = Upkeep(ledger, touches, indexer, clock)
    return Parts(
        embedder=model,
        recent=RecentVectors(),
        calibration=calibration,
        threshold=threshold,
        why_exact_only=uncalibrated
        or f"no measured threshold keeps the error within {settings.max_error_rate:.2%}: "
        "only exact repeats are served; raise max_error_rate or calibrate on your own questions",
        ledger=ledger,
        retrieval=retrieval,
        touches=touches,
        upkeep=upkeep,
    )


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
