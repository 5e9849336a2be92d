"""InvalidatingDocstore: drops answers when a document that they were made from changes."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from llama_index.core.schema import BaseNode
from llama_index.core.storage.docstore.types import BaseDocumentStore, RefDocInfo
from semcache_core import SemanticCache, SemcacheError

from llamaindex_semcache.documents import document_tag, node_tag


def _inner(name: str) -> Any:
    """Return a method that calls the inner store's, sync or async."""

    def call(self: "InvalidatingDocstore", *args: Any, **kwargs: Any) -> Any:
        return getattr(self._docstore, name)(*args, **kwargs)

    call.__name__ = name
    return call


class InvalidatingDocstore(BaseDocumentStore):
    """Any document store; changes drop the answers of a `SemanticCache` that depend on them.

        docstore = InvalidatingDocstore(SimpleDocumentStore(), cache)
        pipeline = IngestionPipeline(docstore=docstore, vector_store=..., ...)

    When a document or node is deleted, or stored again with another hash, every answer with its tag
    or the tag of one of its nodes is dropped (`document_tag`, `node_tag`), for all tenants. A
    document that is new to the store drops nothing: a store in memory does not see a change that
    was made while the app was down.

    Answers are dropped before the change, as the process may crash during it; after it; and again
    when documents are next added, as an `IngestionPipeline` changes its vector store in between,
    where the old nodes are still found. An answer that was begun before the change and is stored
    after all that remains. It is never a hit for the new documents, except with `context="ignore"`:
    set a `ttl` there.

    Only changes through the docstore are seen. An index whose vector store keeps the texts deletes
    there alone, and so does `delete_ref_doc` without `delete_from_docstore=True`: call
    `cache.invalidate(tags=[document_tag(ref_doc_id)], all_namespaces=True)`. After
    `IngestionPipeline.load`, wrap the pipeline's store again.

    Fails open: where answers cannot be dropped, the document still changes. The failure is counted
    as "invalidate", and dropping is tried again when documents are next added.
    """

    def __init__(self, docstore: BaseDocumentStore, cache: SemanticCache) -> None:
        if not isinstance(docstore, BaseDocumentStore):
            raise SemcacheError(
                f"docstore must be a document store of LlamaIndex, got {docstore!r}; "
                "pass SimpleDocumentStore() for one in memory"
            )
        if not isinstance(cache, SemanticCache):
            raise SemcacheError(
                f"cache must be a SemanticCache, got {cache!r}; "
                "of an adapter pass the SemanticCache in it"
            )
        self._docstore = docstore
        self._cache = cache
        self._unsettled: set[str] = set()  # tags to drop again when documents are added

    # -- changes; arguments are passed on unchanged, as the inner stores have different defaults

    def add_documents(self, docs: Sequence[BaseNode], *args: Any, **kwargs: Any) -> None:
        with self._dropping(self._changed(_hashes(docs)), adds=True):
            self._docstore.add_documents(docs, *args, **kwargs)

    async def async_add_documents(
        self, docs: Sequence[BaseNode], *args: Any, **kwargs: Any
    ) -> None:
        async with self._adropping(await self._achanged(_hashes(docs)), adds=True):
            await self._docstore.async_add_documents(docs, *args, **kwargs)

    def set_document_hash(self, doc_id: str, doc_hash: str) -> None:
        with self._dropping(self._changed({doc_id: doc_hash})):
            self._docstore.set_document_hash(doc_id, doc_hash)

    async def aset_document_hash(self, doc_id: str, doc_hash: str) -> None:
        async with self._adropping(await self._achanged({doc_id: doc_hash})):
            await self._docstore.aset_document_hash(doc_id, doc_hash)

    def set_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        with self._dropping(self._changed(doc_hashes)):
            self._docstore.set_document_hashes(doc_hashes)

    async def aset_document_hashes(self, doc_hashes: dict[str, str]) -> None:
        async with self._adropping(await self._achanged(doc_hashes)):
            await self._docstore.aset_document_hashes(doc_hashes)

    def delete_document(self, doc_id: str, *args: Any, **kwargs: Any) -> None:
        with self._dropping(_tags(doc_id, self._docstore.get_ref_doc_info(doc_id))):
            self._docstore.delete_document(doc_id, *args, **kwargs)

    async def adelete_document(self, doc_id: str, *args: Any, **kwargs: Any) -> None:
        async with self._adropping(_tags(doc_id, await self._docstore.aget_ref_doc_info(doc_id))):
            await self._docstore.adelete_document(doc_id, *args, **kwargs)

    def delete_ref_doc(self, ref_doc_id: str, *args: Any, **kwargs: Any) -> None:
        with self._dropping(_tags(ref_doc_id, self._docstore.get_ref_doc_info(ref_doc_id))):
            self._docstore.delete_ref_doc(ref_doc_id, *args, **kwargs)

    async def adelete_ref_doc(self, ref_doc_id: str, *args: Any, **kwargs: Any) -> None:
        info = await self._docstore.aget_ref_doc_info(ref_doc_id)
        async with self._adropping(_tags(ref_doc_id, info)):
            await self._docstore.adelete_ref_doc(ref_doc_id, *args, **kwargs)

    # -- reads -----------------------------------------------------------------------

    @property
    def docs(self) -> dict[str, BaseNode]:
        return self._docstore.docs

    persist = _inner("persist")
    get_document = _inner("get_document")
    aget_document = _inner("aget_document")
    document_exists = _inner("document_exists")
    adocument_exists = _inner("adocument_exists")
    get_document_hash = _inner("get_document_hash")
    aget_document_hash = _inner("aget_document_hash")
    get_all_document_hashes = _inner("get_all_document_hashes")
    aget_all_document_hashes = _inner("aget_all_document_hashes")
    get_ref_doc_info = _inner("get_ref_doc_info")
    aget_ref_doc_info = _inner("aget_ref_doc_info")
    get_all_ref_doc_info = _inner("get_all_ref_doc_info")
    aget_all_ref_doc_info = _inner("aget_all_ref_doc_info")
    get_node = _inner("get_node")
    aget_node = _inner("aget_node")
    get_nodes = _inner("get_nodes")
    aget_nodes = _inner("aget_nodes")
    get_node_dict = _inner("get_node_dict")
    aget_node_dict = _inner("aget_node_dict")

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the inner store, such as `to_dict`."""
        if name == "_docstore":  # a copy that has no attributes yet
            raise AttributeError(name)
        return getattr(self._docstore, name)

    # -- tags, and dropping answers ---------------------------------------------------------

    def _changed(self, hashes: Mapping[str, str]) -> set[str]:
        """Return the tags of the ids that the store has with another hash."""
        tags: set[str] = set()
        for doc_id, new in hashes.items():
            if self._docstore.get_document_hash(doc_id) not in (None, "", new):
                tags |= _tags(doc_id, self._docstore.get_ref_doc_info(doc_id))
        return tags

    async def _achanged(self, hashes: Mapping[str, str]) -> set[str]:
        tags: set[str] = set()
        for doc_id, new in hashes.items():
            if await self._docstore.aget_document_hash(doc_id) not in (None, "", new):
                tags |= _tags(doc_id, await self._docstore.aget_ref_doc_info(doc_id))
        return tags

    @contextmanager
    def _dropping(self, tags: set[str], adds: bool = False) -> Iterator[None]:
        tags = self._due(tags, adds)
        self._drop(tags)
        try:
            yield
        finally:
            if self._drop(tags) and adds:
                self._unsettled.difference_update(tags)

    @asynccontextmanager
    async def _adropping(self, tags: set[str], adds: bool = False) -> AsyncIterator[None]:
        tags = self._due(tags, adds)
        await self._adrop(tags)
        try:
            yield
        finally:
            if await self._adrop(tags) and adds:
                self._unsettled.difference_update(tags)

    def _due(self, tags: set[str], adds: bool) -> set[str]:
        """Return the tags to drop around a change, and keep them in case it fails."""
        if adds:
            tags = tags | self._unsettled
        self._unsettled.update(tags)
        return tags

    def _drop(self, tags: set[str]) -> bool:
        """Drop the answers with any of these tags; return whether that succeeded."""
        if not tags:
            return True
        with self._cache.failing_open("invalidate"):
            self._cache.invalidate(tags=list(tags), all_namespaces=True)
            return True
        return False

    async def _adrop(self, tags: set[str]) -> bool:
        if not tags:
            return True
        with self._cache.failing_open("invalidate"):
            return await self._cache.in_thread(self._drop, tags)
        return False


def _hashes(docs: Sequence[BaseNode]) -> dict[str, str]:
    return {doc.node_id: doc.hash for doc in docs}


def _tags(doc_id: str, info: RefDocInfo | None) -> set[str]:
    """A docstore does not distinguish documents and nodes: the id may be of either."""
    nodes = [] if info is None else info.node_ids
    return {document_tag(doc_id), node_tag(doc_id), *map(node_tag, nodes)}
