"""SemcacheKVStore: LlamaIndex's BaseKVStore over a SemanticCache, with exact keys only."""

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from llama_index.core.storage.kvstore.types import (
    DEFAULT_BATCH_SIZE,
    DEFAULT_COLLECTION,
    BaseKVStore,
)
from semcache_core import Request, SemanticCache, SemcacheError, SharedOptions, adapters, digest
from typing_extensions import Unpack

log = logging.getLogger("semcache")
T = TypeVar("T")

_CHECKSUM = 64  # hex digits of a SHA-256


def _in_thread(name: str) -> Any:
    """Return the async twin of a method."""

    async def call(self: "SemcacheKVStore", *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self, name), *args, **kwargs)

    call.__name__ = f"a{name}"
    return call


class SemcacheKVStore(BaseKVStore):
    """For `IngestionCache(cache=SemcacheKVStore())` and an embedding model's `embeddings_cache=`.

    A value is found by its exact key, and nothing is embedded. It is a dict, stored as JSON: tuples
    come back as lists, keys as text. Takes the keyword arguments of `SemanticCache`, of which
    `path`, `ttl` and `max_entries` matter here, or `cache=` an open one. One ledger may hold
    answers and values, which never meet; `max_entries` counts both.

    It is a cache, not a database: it may forget, and it fails open. A value that cannot be read, or
    was changed, is None; a value that cannot be written is not stored. Both are counted in
    `store.cache.stats().failures` and logged once. Any process may open the same path. Unpickled,
    as by `IngestionPipeline.run(num_workers=2)`, it opens its path again; `path=None` gives
    another, empty store. There is nothing to persist.

    LlamaIndex looks up embeddings by their text alone, of a query or a node. So each embedding
    model needs a namespace of its own, or it gets the vectors of another model:

        SomeEmbedding(model_name=name, embeddings_cache=SemcacheKVStore(namespace=name))

    It defines no length and no repr: LlamaIndex would treat an empty store as none, and the repr as
    a part of the transformation.
    """

    def __init__(
        self,
        *,
        cache: SemanticCache | None = None,
        namespace: adapters.Namespace = adapters.own_namespace,
        **options: Unpack[SharedOptions],
    ) -> None:
        adapters.check_given(namespace)
        self._namespace = namespace
        opened = adapters.open_cache(cache, None, None, options)
        self._settings = opened.settings.model_dump() if cache is None else None
        self._cache: SemanticCache | None = opened
        self._opening = threading.Lock()
        self._warned = False

    @property
    def cache(self) -> SemanticCache:
        """The cache that holds the values; an unpickled store opens it at its first use."""
        if self._cache is None:
            with self._opening:
                if self._cache is None:
                    self._cache = SemanticCache(**self._settings or {})
        return self._cache

    # -- one key -------------------------------------------------------------------------------

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return the value of exactly this key, as a new object each time."""

        def find(cache: SemanticCache) -> dict[str, Any] | None:
            hit = cache.lookup(self._request(cache, key, collection))
            return None if hit is None else _load(hit.response)

        return self._attempt("get", find, None)

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Store a value; an older one is dropped even if this one cannot be stored."""

        def store(cache: SemanticCache) -> None:
            request = self._request(cache, key, collection)
            stored = None
            try:
                stored = cache.update(request, _dump(val), wraps=True)
            finally:
                if stored is None:  # no value is better than the older one
                    cache.forget(request)

        self._attempt("put", store, None)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Forget a value; return whether there was one."""

        def forget(cache: SemanticCache) -> bool:
            return cache.forget(self._request(cache, key, collection))

        return self._attempt("delete", forget, False)

    # -- many keys -----------------------------------------------------------------------------

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return key -> value of this namespace's collection."""
        found: dict[str, dict[str, Any]] = {}

        def find(cache: SemanticCache) -> None:
            tenant = adapters.current_namespace(self._namespace, cache)
            for entry in cache.entries(_scope(collection), tenant):
                with cache.failing_open("get_all"):  # a bad row does not hide the others
                    found[entry.question] = _load(entry.response)

        self._attempt("get_all", find, None)
        return found

    def put_all(
        self,
        kv_pairs: list[tuple[str, dict[str, Any]]],
        collection: str = DEFAULT_COLLECTION,
        batch_size: int = DEFAULT_BATCH_SIZE,
    ) -> None:
        """Store all these values; `batch_size` has no effect."""
        for key, val in kv_pairs:
            self.put(key, val, collection)

    # -- async twins, in a thread: the event loop never waits for the disk -----------------------

    aget = _in_thread("get")
    aput = _in_thread("put")
    adelete = _in_thread("delete")
    aget_all = _in_thread("get_all")
    aput_all = _in_thread("put_all")

    # -- helpers -------------------------------------------------------------------------------

    def _request(self, cache: SemanticCache, key: str, collection: str) -> Request:
        tenant = adapters.current_namespace(self._namespace, cache)
        return Request(key, _scope(collection), tenant, exact_only=True)

    def _attempt(self, operation: str, call: Callable[[SemanticCache], T], otherwise: T) -> T:
        """Return the result of `call`, or `otherwise` where the cache fails."""
        try:
            cache = self.cache
        except SemcacheError as error:  # only of an unpickled store, which has no counters yet
            if not self._warned:
                log.warning(
                    "semcache: a copied store cannot be opened, and holds nothing: %s", error
                )
            self._warned = True
            return otherwise
        with cache.failing_open(operation):
            return call(cache)
        return otherwise

    def __getstate__(self) -> dict[str, Any]:
        if self._settings is None:
            raise SemcacheError(
                "a store with cache= cannot be pickled for another process, which would lack the "
                "hooks of that cache; write SemcacheKVStore(path=...) with the same path"
            )
        return {"namespace": self._namespace, "settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._namespace = state["namespace"]
        self._settings = state["settings"]
        self._cache = None
        self._opening = threading.Lock()
        self._warned = False


def _scope(collection: str) -> str:
    """Return a scope that no other adapter uses: no answer is ever found by a key."""
    return digest(["llamaindex kvstore", collection])


def _dump(value: object) -> str:
    if not isinstance(value, dict):
        raise SemcacheError(f"a value must be a dict, got a {type(value).__name__}")
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SemcacheError(
            f"a value cannot be written as JSON ({error}); put dicts, lists, texts and numbers only"
        ) from error
    return _checksum(text) + text


def _load(stored: str) -> dict[str, Any]:
    """Read what `_dump` wrote; raises SemcacheError for any other text, even if it is JSON."""
    text = stored[_CHECKSUM:]
    if stored[:_CHECKSUM] != _checksum(text):
        raise SemcacheError(
            "a row is not what was put: the file was changed, or `redact` took something out of "
            "the value; keep values in a cache without `redact`"
        )
    value: dict[str, Any] = json.loads(text)
    return value


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
