"""The default embedder: an artefact's int8 model on ONNX Runtime, which is imported on use."""

import hashlib
import threading
import unicodedata
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from semcache_core.embedding.cpu import usable_cores
from semcache_core.errors import ArtefactError
from semcache_core.types import Matrix

if TYPE_CHECKING:
    import onnxruntime
    from tokenizers import Tokenizer

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
DEFAULT_ARTEFACT = Path(__file__).parents[1] / "artefacts" / "default"

_UNPRINTED = frozenset(("Cc", "Cf", "Cn", "Co"))
_MARKS = frozenset(("Mn", "Me"))
_MODEL_REACH = 256
"""Tokens that the model reads."""


def fingerprint_files(directory: Path) -> str:
    """SHA-256 (hex) over model.onnx and then tokenizer.json: the identity of the vectors."""
    files = tuple(directory / name for name in (MODEL_FILE, TOKENIZER_FILE))
    try:
        return _digest(files, tuple(_version_of(file) for file in files))
    except OSError as error:
        raise ArtefactError(
            f"{error.filename} cannot be read ({error.strerror}); an artefact directory holds "
            f"{MODEL_FILE}, {TOKENIZER_FILE} and calibration.json"
        ) from None


def _version_of(file: Path) -> tuple[int, ...]:
    """What changes when a file is written or replaced, without reading it."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=8)
def _digest(files: tuple[Path, ...], versions: tuple[tuple[int, ...], ...]) -> str:
    """Kept by process: reading and hashing took half of the time of opening another cache."""
    hasher = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(2**18):
                hasher.update(block)
    return hasher.hexdigest()


class OnnxEmbedder:
    """The artefact's int8 model on ONNX Runtime, one intra-op thread, one question at a time.

    On a CPU the int8 model is faster one question at a time than in padded batches, and callers on
    several threads run side by side, so calls are not batched here. No more of them run at once
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

    @cached_property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self._open()[0].get_outputs()[0].shape[-1])

    def embed(self, texts: list[str]) -> Matrix:
        """Float32 [n, dimension] unit rows. Text beyond the model's reach is cut off."""
        session, tokenizer, _ = self._open()
        with self._cores:
            rows = [self._embed_one(session, tokenizer, text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.dimension), np.float32)

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, the special ones included."""
        return len(self._open()[1].encode(without_surrogates(text)).ids)

    def reads(self, text: str, max_tokens: int) -> bool:
        """Whether the model sees all of `text`, see `Embedder.reads`."""
        _, tokenizer, unknown = self._open()
        self._last_tokens = None, []  # the last question may be another tenant's
        # every token takes at least one character: no need to tokenize a book to refuse it
        if text != without_surrogates(text) or len(text) > 64 * max_tokens:
            return False
        ids = self._tokens(tokenizer, text)
        if len(ids) > min(max_tokens, _MODEL_REACH) or unknown in ids:
            return False
        return not hides_characters(text, lambda part: list(tokenizer.encode(part).ids))

    def _tokens(self, tokenizer: Any, text: str) -> list[int]:
        """The tokens of a readable text. Those of the last text are kept, as a cache calls `reads`
        and then `embed` with the same question.
        """
        last, ids = self._last_tokens
        if last != text:
            ids = tokenizer.encode(text).ids
            self._last_tokens = text, ids  # one assignment: another thread sees the pair or not
        return ids

    def _embed_one(self, session: Any, tokenizer: Any, text: str) -> Matrix:
        ids = np.array(
            [self._tokens(tokenizer, without_surrogates(text))[:_MODEL_REACH]], dtype=np.int64
        )
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        vector: Matrix = session.run(["embedding"], feed)[0][0]
        return vector

    def _open(self) -> "tuple[onnxruntime.InferenceSession, Tokenizer, int | None]":
        opened = self._opened
        if opened is None:
            with self._opening:
                opened = self._opened = self._opened or _open_model(self._directory)
        return opened


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
    """Raise ArtefactError for a model of another kind, here and not in the middle of a lookup."""
    takes = {one.name for one in session.get_inputs()}
    gives = {one.name: one.shape for one in session.get_outputs()}
    shape = gives.get("embedding") or [None]
    if takes != {"input_ids", "attention_mask"} or type(shape[-1]) is not int:
        raise ArtefactError(
            f"{directory / MODEL_FILE} takes {sorted(takes)} and gives {gives}; a model for this "
            "takes input_ids and attention_mask and gives an embedding of known length; export it"
        )


def unprinted_characters(text: str) -> set[str]:
    """The characters in `text` that are not shown: controls, joiners, tags, private, unassigned."""
    if text.isascii() and text.isprintable():
        return set()
    return {
        one
        for one in set(text)
        if one not in "\t\n\r" and (unicodedata.category(one) in _UNPRINTED or one == "\ufffd")
    }


def hides_characters(text: str, tokens: Callable[[str], list[int]]) -> bool:
    """Whether the tokenizer drops a character of `text`. A whole instruction can be written in
    such characters, and the question would get the same vector without it.

    Each character is tried by itself, as scripts that are written with marks and joiners have
    tokens for them. An accent on a letter does not count: BERT's vocabulary has none, but without
    it a word is rarely another one.
    """
    if text.isascii() and text.isprintable():
        return False
    composed = unicodedata.normalize("NFC", text)
    suspects = unprinted_characters(composed) | {
        c for c in composed if unicodedata.category(c) in _MARKS
    }
    if not suspects:  # nearly every question: it need not be tokenized again
        return False
    seen = tokens(composed)
    return any(tokens(composed.replace(one, "")) == seen for one in suspects)


def without_surrogates(text: str) -> str:
    """`text` with lone surrogates replaced: the tokenizer takes only valid Unicode."""
    return text.encode("utf-8", "replace").decode("utf-8")
