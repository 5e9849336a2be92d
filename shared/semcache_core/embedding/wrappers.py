"""Embedders on a model that the app brings."""

import hashlib
from typing import Any

from semcache_core.embedding.batching import Batcher, checked_unit_rows
from semcache_core.embedding.onnx import (
    hides_characters,
    unprinted_characters,
    without_surrogates,
)
from semcache_core.errors import EmbedderError
from semcache_core.types import Embedder, Matrix


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
        if text != without_surrogates(text) or len(text) > 64 * max_tokens:
            return False
        # it is not known whether the provider's model sees these; some scripts need joiners
        if any(one not in "\u200c\u200d" for one in unprinted_characters(text)):
            return False
        # The provider's tokens are not known. A word is rarely more than two of them; a long or
        # non-Latin one (Chinese writes no spaces) rarely more than one for every three bytes.
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
        self._batcher = Batcher(self._encode)

    def embed(self, texts: list[str]) -> Matrix:
        return self._batcher(texts)

    def reads(self, text: str, max_tokens: int) -> bool:
        if text != without_surrogates(text) or len(text) > 64 * max_tokens:
            return False
        tokenizer = self._model.tokenizer

        def tokens(part: str) -> list[int]:
            return list(tokenizer(part, truncation=False)["input_ids"])

        ids = tokens(text)
        reach = min(max_tokens, self._model.max_seq_length or max_tokens)
        return (
            len(ids) <= reach
            and tokenizer.unk_token_id not in ids
            and not hides_characters(text, tokens)
        )

    def _encode(self, texts: list[str]) -> Matrix:
        rows = self._model.encode(
            [without_surrogates(text) for text in texts],
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return checked_unit_rows(rows, len(texts), None)


def as_embedder(model: object) -> Embedder:
    """Wrap what an app brings: a sentence-transformers name or model, LangChain or LlamaIndex
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
