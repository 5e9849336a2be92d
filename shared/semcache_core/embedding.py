"""Embedders: ONNX Runtime by default, or a model the user brings. Heavy imports happen on use."""

import hashlib
import os
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semcache_core.errors import ArtefactError, EmbedderError, SemcacheError
from semcache_core.types import Embedder, Matrix, Vector

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
DEFAULT_ARTEFACT = Path(__file__).parent / "artefacts" / "default"


def fingerprint_files(directory: Path) -> str:
    """SHA-256 (hex) over model.onnx and then tokenizer.json: the identity of the vectors."""
    hasher = hashlib.sha256()
    for name in (MODEL_FILE, TOKENIZER_FILE):
        file = directory / name
        try:
            hasher.update(file.read_bytes())
        except OSError as error:
            raise ArtefactError(
                f"{file} cannot be read ({error.strerror}); an artefact directory holds "
                f"{MODEL_FILE}, {TOKENIZER_FILE} and calibration.json"
            ) from None
    return hasher.hexdigest()


class OnnxEmbedder:
    """The artefact's int8 model on ONNX Runtime, one intra-op thread, one question at a time.

    On a CPU the int8 model is faster one question at a time than in padded batches, and callers on
    several threads run side by side, so nothing is coalesced here. No more of them run at once
    than there are cores: more would only fight for the interpreter's lock, which halved the
    throughput of 32 threads and stalled the event loop. The session is opened at the first
    question; a cache that only sees exact repeats never pays for it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.fingerprint = fingerprint_files(directory)
        self._cores = threading.Semaphore(usable_cores())
        self._opening = threading.Lock()
        self._opened: tuple[onnxruntime.InferenceSession, Tokenizer, int | None] | None = None
        self._last_tokens: tuple[str | None, list[int]] = (None, [])

    @classmethod
    def load(cls, directory: Path) -> "OnnxEmbedder":
        """Open an artefact directory and its model at once, so that a bad file shows here."""
        embedder = cls(directory)
        embedder._open()
        return embedder

    @property
    def dimension(self) -> int:
        return int(self._open()[0].get_outputs()[0].shape[-1])

    def embed(self, texts: list[str]) -> Matrix:
        """Float32 [n, dimension] unit rows. Text beyond the model's reach is cut off."""
        session, tokenizer, _ = self._open()
        with self._cores:
            rows = [self._embed_one(session, tokenizer, text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, the special ones included."""
        return len(self._open()[1].encode(_readable(text)).ids)

    def reads(self, text: str, max_tokens: int) -> bool:
        _, tokenizer, unknown = self._open()
        self._last_tokens = None, []  # whoever asked the same before may be another tenant
        # every token takes at least one character: no need to tokenize a book to refuse it
        if text != _readable(text) or len(text) > 64 * max_tokens:
            return False
        ids = self._tokens(tokenizer, text)
        if len(ids) > min(max_tokens, _MODEL_REACH) or unknown in ids:
            return False
        return not _hides(text, lambda part: list(tokenizer.encode(part).ids))

    def _tokens(self, tokenizer: Any, text: str) -> list[int]:
        """The tokens of a readable text; those of the last one are at hand, as a cache asks
        `reads` and then `embed` of the same question.
        """
        last, ids = self._last_tokens
        if last != text:
            ids = tokenizer.encode(text).ids
            self._last_tokens = text, ids  # one assignment: another thread sees the pair or not
        return ids

    def _embed_one(self, session: Any, tokenizer: Any, text: str) -> Matrix:
        ids = np.array([self._tokens(tokenizer, _readable(text))[:_MODEL_REACH]], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        vector: Matrix = session.run(["embedding"], feed)[0][0]
        return vector

    def _open(self) -> "tuple[onnxruntime.InferenceSession, Tokenizer, int | None]":
        opened = self._opened
        if opened is None:
            with self._opening:
                opened = self._opened = self._opened or _open_model(self._directory)
        return opened


_MODEL_REACH = 256


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_model(
    directory: Path,
) -> "tuple[onnxruntime.InferenceSession, Tokenizer, int | None]":
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(directory / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    # both libraries raise bare Exception subclasses of their own bindings for a malformed file
    except Exception as error:  # noqa: BLE001
        raise ArtefactError(f"{directory} holds no usable model: {error}; export it anew") from None
    _check_outputs(session, directory)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    unknown = getattr(tokenizer.model, "unk_token", None)
    return session, tokenizer, None if unknown is None else tokenizer.token_to_id(unknown)


def _check_outputs(session: Any, directory: Path) -> None:
    """ArtefactError for a model of another kind, here and not in the middle of a lookup."""
    takes = {one.name for one in session.get_inputs()}
    gives = {one.name: one.shape for one in session.get_outputs()}
    shape = gives.get("embedding") or [None]
    if takes != {"input_ids", "attention_mask"} or type(shape[-1]) is not int:
        raise ArtefactError(
            f"{directory / MODEL_FILE} takes {sorted(takes)} and gives {gives}; a model for this "
            "takes input_ids and attention_mask and gives an embedding of known length; export it"
        )


_UNPRINTED = frozenset(("Cc", "Cf", "Cn", "Co"))
_MARKS = frozenset(("Mn", "Me"))


def _unprinted(text: str) -> set[str]:
    """Characters in `text` that are not shown: controls, joiners, tags, private and unassigned."""
    if text.isascii() and text.isprintable():
        return set()
    return {
        one
        for one in set(text)
        if one not in "\t\n\r" and (unicodedata.category(one) in _UNPRINTED or one == "\ufffd")
    }


def _hides(text: str, tokens: Callable[[str], list[int]]) -> bool:
    """Whether the tokenizer drops a character of `text`: a whole instruction can be written in
    those, and the question with it gets the vector of the question alone.

    Asked of each by itself, as scripts that are written with marks and joiners have tokens for
    them. An accent on a letter is no such character: BERT's vocabulary has none, but a word is
    rarely another one for want of it.
    """
    if text.isascii() and text.isprintable():
        return False
    composed = unicodedata.normalize("NFC", text)
    suspects = _unprinted(composed) | {c for c in composed if unicodedata.category(c) in _MARKS}
    if not suspects:  # nearly every question: it need not be tokenized again
        return False
    seen = tokens(composed)
    return any(tokens(composed.replace(one, "")) == seen for one in suspects)


def _readable(text: str) -> str:
    """`text` with lone surrogates replaced: the tokenizer takes only valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")


class CustomEmbedder:
    """An embeddings object of LangChain or LlamaIndex, embedding on its query side.

    Both storing and looking up embed questions, so the document side is never used. One call per
    question: these interfaces have no batch call for queries.
    """

    def __init__(self, model: Any) -> None:
        self._embed_query = (
            model.embed_query if hasattr(model, "embed_query") else model.get_query_embedding
        )
        name = next(
            (str(v) for a in ("model_name", "model") if (v := getattr(model, a, None))), "unnamed"
        )
        probe = checked_unit_rows(self._raw(["probe"]), 1, None)
        self.dimension = int(probe.shape[1])
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        identity = f"{kind}:{name}:{self.dimension}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def embed(self, texts: list[str]) -> Matrix:
        return checked_unit_rows(self._raw(texts), len(texts), self.dimension)

    def reads(self, text: str, max_tokens: int) -> bool:
        if text != _readable(text) or len(text) > 64 * max_tokens:
            return False
        # nobody can tell whether the provider's model sees these; some scripts need joiners
        if any(one not in "\u200c\u200d" for one in _unprinted(text)):
            return False
        # The tokens are the provider's secret; a word is rarely more than two of them, and a long
        # or non-Latin one (Chinese writes no spaces) than one for every three bytes.
        return sum(max(2, len(w.encode()) // 3) for w in text.split()) <= max_tokens

    def _raw(self, texts: list[str]) -> list[Any]:
        rows = []
        for text in texts:
            try:
                rows.append(self._embed_query(text))
            # whatever the provider's client raises: network, quota, credentials
            except Exception as error:
                raise EmbedderError(f"the embedder failed: {error!r}") from error
        return rows


class SentenceTransformerEmbedder:
    """A sentence-transformers model on torch. Concurrent calls are joined into one batch."""

    def __init__(self, model: Any) -> None:
        self._model = model
        hasher = hashlib.sha256()
        for name, tensor in sorted(model.state_dict().items()):
            hasher.update(name.encode())
            hasher.update(tensor.detach().cpu().float().numpy().tobytes())
        self.fingerprint = hasher.hexdigest()
        self.dimension = int(self._encode(["probe"]).shape[1])
        self._coalesced = Coalescer(self._encode)

    def embed(self, texts: list[str]) -> Matrix:
        return self._coalesced(texts)

    def reads(self, text: str, max_tokens: int) -> bool:
        if text != _readable(text) or len(text) > 64 * max_tokens:
            return False
        tokenizer = self._model.tokenizer

        def tokens(part: str) -> list[int]:
            return list(tokenizer(part, truncation=False)["input_ids"])

        ids = tokens(text)
        reach = min(max_tokens, self._model.max_seq_length or max_tokens)
        return len(ids) <= reach and tokenizer.unk_token_id not in ids and not _hides(text, tokens)

    def _encode(self, texts: list[str]) -> Matrix:
        rows = self._model.encode(
            [_readable(text) for text in texts],
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return checked_unit_rows(rows, len(texts), None)


class Coalescer:
    """Joins calls that arrive while a batch is being computed into the next batch.

    A lone call starts at once; nobody ever waits for company, only for the batch before. That is
    the gain of batching without a timer. If a batch fails, each of its calls is tried alone, so
    one bad text does not fail its neighbours.
    """

    def __init__(self, encode: Any, max_batch: int = 64) -> None:
        self._encode = encode
        self._max_batch = max_batch
        self._turn = threading.Lock()
        self._waiting: list[_Call] = []
        self._guard = threading.Lock()

    def __call__(self, texts: list[str]) -> Matrix:
        call = _Call(texts)
        with self._guard:
            self._waiting.append(call)
        with self._turn:
            while call.result is None and call.error is None:
                self._run_batch(call)
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _run_batch(self, own: "_Call") -> None:
        with self._guard:
            batch, self._waiting = (
                self._waiting[: self._max_batch],
                self._waiting[self._max_batch :],
            )
        try:
            rows = self._encode([text for call in batch for text in call.texts])
        except Exception as error:  # noqa: BLE001
            if len(batch) == 1:
                batch[0].error = error
                return
            for call in batch:
                call.run(self._encode)
            return
        except BaseException:
            # an interrupt is this thread's own; the others run their part themselves
            with self._guard:
                self._waiting = [call for call in batch if call is not own] + self._waiting
            raise
        start = 0
        for call in batch:
            call.result = rows[start : start + len(call.texts)]
            start += len(call.texts)


class _Call:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.result: Matrix | None = None
        self.error: Exception | None = None

    def run(self, encode: Any) -> None:
        try:
            self.result = encode(self.texts)
        except Exception as error:  # noqa: BLE001
            self.error = error


class RecentVectors:
    """The last questions' vectors: a miss is looked up, answered and then stored, and the second
    embedding of the same text would double what a miss costs.

    Each namespace has its own: were they shared, a question that another tenant has just asked
    would be answered by the time of an embedding sooner, and that tells of it.
    """

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._vectors: OrderedDict[tuple[str, str], Vector] = OrderedDict()

    def embed(self, embedder: Embedder, text: str, namespace: str) -> Vector:
        """The unit vector of `text`; EmbedderError if the embedder returns something else."""
        with self._lock:
            known = self._vectors.get((namespace, text))
        if known is not None:
            return known
        vector = embed_one(embedder, text)
        with self._lock:
            self._vectors[namespace, text] = vector
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
        return vector


def embed_one(embedder: Embedder, text: str) -> Vector:
    """The unit vector of `text`; EmbedderError if the embedder returns something else."""
    vector: Vector = embed_all(embedder, [text])[0]
    return vector


def embed_all(embedder: Embedder, texts: list[str]) -> Matrix:
    """Unit rows, one for each text; EmbedderError if the embedder returns something else."""
    try:
        rows = embedder.embed(texts)
        dimension = embedder.dimension
    except SemcacheError:
        raise
    except Exception as error:  # whatever the model or the user's own code raises
        raise EmbedderError(f"the embedder failed: {error!r}") from error
    return checked_unit_rows(rows, len(texts), dimension)


def checked_unit_rows(rows: Any, n: int, dimension: int | None) -> Matrix:
    """`rows` scaled to length 1; EmbedderError for a wrong shape, NaN, infinity or a zero row."""
    try:
        matrix = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EmbedderError(
            f"the embedder returned what is no matrix of numbers ({error}); "
            "return one vector of the same length per text"
        ) from None
    if matrix.ndim != 2 or len(matrix) != n or (dimension and matrix.shape[1] != dimension):
        wanted = f"[{n}, {dimension or 'dimension'}]"
        raise EmbedderError(
            f"the embedder returned shape {list(matrix.shape)}, expected {wanted}; "
            "return one vector of the same length per text"
        )
    lengths = np.linalg.norm(matrix, axis=1)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        bad = int(np.argmax(~np.isfinite(lengths) | (lengths == 0)))
        raise EmbedderError(
            f"the embedder returned a vector of length {lengths[bad]} for text {bad} of {n}; "
            "every vector must be finite and not zero"
        )
    unit: Matrix = matrix / lengths[:, None]
    return unit


def as_embedder(model: object) -> Embedder:
    """Wrap what a user brings: a sentence-transformers name or model, LangChain or LlamaIndex
    embeddings, or any Embedder. EmbedderError says what was given when it is none of these.
    """
    if isinstance(model, str):
        return SentenceTransformerEmbedder(open_sentence_transformer(model))
    if isinstance(model, Embedder):
        return model
    if hasattr(model, "encode") and hasattr(model, "state_dict"):
        return SentenceTransformerEmbedder(model)
    if hasattr(model, "embed_query") or hasattr(model, "get_query_embedding"):
        return CustomEmbedder(model)
    raise EmbedderError(
        f"embedder cannot be {model!r}; give a sentence-transformers name or model, LangChain or "
        "LlamaIndex embeddings, or an object with fingerprint, dimension, embed and reads"
    )


def open_sentence_transformer(name: str) -> Any:
    """The sentence-transformers model of this name or directory; EmbedderError when there is none.

    A name is looked up in the local cache of the hub, else downloaded from it.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise EmbedderError(
            f"embedder={name!r} needs sentence-transformers; "
            'run: pip install "semcache-core[train]"'
        ) from None
    try:
        return SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise EmbedderError(f"sentence-transformers cannot load {name!r}: {error}") from None
