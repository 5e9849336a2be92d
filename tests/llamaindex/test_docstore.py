"""InvalidatingDocstore: a document that changes takes its answers with it, whoever changes it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import WordEmbedder
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.schema import (
    BaseNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
    TransformComponent,
)
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.docstore.types import BaseDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from semcache_core import Request, SemanticCache, SemcacheError

from llamaindex_semcache.docstore import InvalidatingDocstore
from llamaindex_semcache.documents import document_tag, node_tag

TENANTS = ("acme", "globex")


def document(doc_id: str, text: str) -> Document:
    return Document(text=text, doc_id=doc_id)


def node(node_id: str, text: str, of: str | None = None) -> TextNode:
    made = TextNode(text=text, id_=node_id)
    if of is not None:
        made.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=of)
    return made


def answer(cache: SemanticCache, *tags: str) -> None:
    """Each tenant is given an answer that was made from what these tags name."""
    for tenant in TENANTS:
        cache.update(Request(" ".join(tags), "answers", tenant, tags=tags), "an answer")


def left(cache: SemanticCache) -> set[str]:
    """The tags of the answers that are left; the tenants always have the same."""
    of_tenant = [{e.question for e in cache.entries("answers", tenant)} for tenant in TENANTS]
    assert of_tenant[0] == of_tenant[1]
    return of_tenant[0]


class Sync:
    """A docstore, index or pipeline as it is, for tests of both forms."""

    async def __call__(self, target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(target, name)(*args, **kwargs)


class Async:
    """The same through the async twins."""

    async def __call__(self, target: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        twin = "async_add_documents" if name == "add_documents" else f"a{name}"
        return await getattr(target, twin)(*args, **kwargs)


Form = Sync | Async


@pytest.fixture(params=[Sync, Async])
def call(request: pytest.FixtureRequest) -> Form:
    return request.param()  # type: ignore[no-any-return]


@pytest.fixture
def cache(bench: Bench) -> SemanticCache:
    return bench.open()


@pytest.fixture
def docstore(cache: SemanticCache) -> InvalidatingDocstore:
    """Two documents, the first of three nodes; every one of them has been asked about."""
    docstore = InvalidatingDocstore(SimpleDocumentStore(), cache)
    docstore.add_documents([node(f"a{n}", f"{n} of a", "a") for n in range(3)])
    docstore.add_documents([document("b", "b")])
    docstore.set_document_hashes({"a": "hash of a", "b": document("b", "b").hash})
    for tag in ALL:
        answer(cache, tag)
    return docstore


OF_A = {document_tag("a"), *(node_tag(f"a{n}") for n in range(3))}
ALL = OF_A | {document_tag("b"), document_tag("ab")}


class TestDirectly:
    @pytest.mark.parametrize(
        ("name", "arguments", "gone"),
        [
            ("delete_ref_doc", ("a",), OF_A),
            ("delete_document", ("b",), {document_tag("b")}),
            ("delete_document", ("a1",), {node_tag("a1")}),
            ("set_document_hash", ("a", "new"), OF_A),
            ("set_document_hashes", ({"a": "new", "b": "new"},), OF_A | {document_tag("b")}),
            ("add_documents", ([document("b", "new")],), {document_tag("b")}),
            ("add_documents", ([node("a1", "new", "a")],), {node_tag("a1")}),
        ],
    )
    async def test_what_changes_takes_its_answers_with_it(
        self, name: str, arguments: Any, gone: set[str], call: Form, docstore: Any, cache: Any
    ) -> None:
        await call(docstore, name, *arguments)
        assert left(cache) == ALL - gone

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [
            ("add_documents", ([document("b", "b"), node("a1", "1 of a", "a")],)),
            ("set_document_hash", ("a", "hash of a")),
            ("set_document_hashes", ({"a": "hash of a", "new": "any"},)),
            ("add_documents", ([],)),
            ("get_document_hash", ("a",)),
            ("get_ref_doc_info", ("a",)),
            ("document_exists", ("b",)),
        ],
    )
    async def test_what_stays_or_is_new_drops_nothing(
        self, name: str, arguments: Any, call: Form, docstore: Any, cache: Any
    ) -> None:
        answer(cache, document_tag("new"))
        await call(docstore, name, *arguments)
        assert left(cache) == ALL | {document_tag("new")}

    async def test_a_document_of_more_nodes_than_a_statement_takes(
        self, call: Form, cache: SemanticCache
    ) -> None:
        docstore = InvalidatingDocstore(SimpleDocumentStore(), cache)
        docstore.add_documents([node(f"n{n}", str(n), "a") for n in range(1200)])
        answer(cache, node_tag("n1199"))
        await call(docstore, "delete_ref_doc", "a")
        assert left(cache) == set()

    async def test_an_answer_of_several_documents_goes_with_the_first_that_changes(
        self, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        answer(cache, document_tag("a"), document_tag("ab"))
        await call(docstore, "set_document_hash", "a", "new")
        assert left(cache) == ALL - OF_A


class Answering(TransformComponent):
    """A transformation during which somebody is answered from what is still found."""

    cache: Any
    tags: list[str]

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        for tag in self.tags:
            answer(self.cache, tag)
        return nodes


STRATEGIES = list(DocstoreStrategy)


class TestInAPipeline:
    def pipeline(self, strategy: DocstoreStrategy, docstore: Any, *more: Any) -> IngestionPipeline:
        return IngestionPipeline(
            transformations=[*more, MockEmbedding(embed_dim=2)],
            docstore=docstore,
            vector_store=SimpleVectorStore(),
            docstore_strategy=strategy,
            disable_cache=True,
        )

    @pytest.fixture
    def docstore(self, cache: SemanticCache) -> InvalidatingDocstore:
        return InvalidatingDocstore(SimpleDocumentStore(), cache)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_a_changed_document_drops_its_answers_and_a_missing_one_as_the_strategy_says(
        self, strategy: DocstoreStrategy, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        pipeline = self.pipeline(strategy, docstore)
        tags = {document_tag(doc_id) for doc_id in "abc"}
        first = [document("a", "1"), document("b", "1"), document("c", "1")]
        await call(pipeline, "run", documents=first)
        for tag in tags:
            answer(cache, tag)
        await call(pipeline, "run", documents=first)
        assert left(cache) == tags  # nothing has changed
        await call(pipeline, "run", documents=[document("a", "2"), document("b", "1")])
        missing = {document_tag("c")} if strategy == "upserts_and_delete" else set()
        assert left(cache) == tags - {document_tag("a")} - missing

    @pytest.mark.parametrize("strategy", STRATEGIES)
    async def test_an_answer_made_in_the_midst_of_the_change_is_dropped_too(
        self, strategy: DocstoreStrategy, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        await call(
            self.pipeline(strategy, docstore),
            "run",
            documents=[document("a", "1"), document("c", "1")],
        )
        tags = [document_tag(doc_id) for doc_id in "abc"]
        answering = Answering(cache=cache, tags=tags)
        await call(
            self.pipeline(strategy, docstore, answering),
            "run",
            documents=[document("a", "2"), document("b", "2")],
        )
        missing = {tags[2]} if strategy == "upserts_and_delete" else set()
        assert left(cache) == {*tags} - {tags[0]} - missing

    async def test_what_was_settled_is_not_dropped_again(
        self, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        pipeline = self.pipeline(DocstoreStrategy.UPSERTS, docstore)
        for text in ("1", "2"):
            await call(pipeline, "run", documents=[document("a", text)])
        answer(cache, document_tag("a"))
        await call(pipeline, "run", documents=[document("b", "new")])
        assert left(cache) == {document_tag("a")}

    async def test_changed_nodes_drop_their_answers(
        self, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        pipeline = self.pipeline(DocstoreStrategy.UPSERTS, docstore)
        await call(pipeline, "run", nodes=[node("a0", "1", "a"), node("a1", "1", "a")])
        answer(cache, node_tag("a0"))
        answer(cache, node_tag("a1"))
        await call(pipeline, "run", nodes=[node("a0", "1", "a"), node("a1", "2", "a")])
        assert left(cache) == {node_tag("a0")}


class TestUnderAnIndex:
    @pytest.fixture
    def index(self, cache: SemanticCache) -> VectorStoreIndex:
        docstore = InvalidatingDocstore(SimpleDocumentStore(), cache)
        index = VectorStoreIndex.from_documents(
            [document("a", "1"), document("b", "1")],
            storage_context=StorageContext.from_defaults(docstore=docstore),
            embed_model=MockEmbedding(embed_dim=2),
        )
        for node_id in docstore.docs:
            answer(cache, node_tag(node_id))
        for doc_id in "ab":
            answer(cache, document_tag(doc_id))
        return index

    def of(self, index: VectorStoreIndex, doc_id: str) -> set[str]:
        info = index.docstore.get_ref_doc_info(doc_id)
        assert info is not None and info.node_ids
        return {document_tag(doc_id), *map(node_tag, info.node_ids)}

    async def test_refresh_drops_the_answers_of_what_has_changed(
        self, call: Form, index: VectorStoreIndex, cache: SemanticCache
    ) -> None:
        kept = self.of(index, "b")
        changed = [document("a", "2"), document("b", "1"), document("c", "1")]
        assert await call(index, "refresh_ref_docs", changed) == [True, False, True]
        assert left(cache) == kept

    async def test_update_and_delete_drop_the_answers(
        self, call: Form, index: VectorStoreIndex, cache: SemanticCache
    ) -> None:
        kept = self.of(index, "b")
        await call(index, "update_ref_doc", document("a", "2"))
        assert left(cache) == kept
        await call(index, "delete_ref_doc", "b", delete_from_docstore=True)
        assert left(cache) == set()

    async def test_what_goes_past_the_docstore_drops_nothing(
        self, call: Form, index: VectorStoreIndex, cache: SemanticCache
    ) -> None:
        before = left(cache)
        await call(index, "delete_ref_doc", "b")
        assert left(cache) == before

    async def test_an_index_that_is_built_again_drops_nothing(
        self, index: VectorStoreIndex, cache: SemanticCache
    ) -> None:
        before = left(cache)
        VectorStoreIndex.from_documents(
            [document("a", "1"), document("b", "1")],
            storage_context=StorageContext.from_defaults(
                docstore=InvalidatingDocstore(SimpleDocumentStore(), cache)
            ),
            embed_model=MockEmbedding(embed_dim=2),
        )
        assert left(cache) == before


class Watched(SimpleDocumentStore):
    """Does `during` in the midst of every deletion."""

    during: Callable[[], None]

    def delete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        self.during()
        super().delete_ref_doc(ref_doc_id, raise_error)

    async def adelete_ref_doc(self, ref_doc_id: str, raise_error: bool = True) -> None:
        self.during()
        await super().adelete_ref_doc(ref_doc_id, raise_error)


class TestOrder:
    @pytest.fixture
    def inner(self) -> Watched:
        inner = Watched()
        inner.add_documents([node("a0", "1", "a")])
        return inner

    async def test_answers_are_dropped_before_the_change_and_after_it(
        self, call: Form, inner: Watched, cache: SemanticCache
    ) -> None:
        answer(cache, document_tag("a"))
        seen: list[set[str]] = []

        def during() -> None:
            seen.append(left(cache))
            answer(cache, document_tag("a"))

        inner.during = during
        await call(InvalidatingDocstore(inner, cache), "delete_ref_doc", "a")
        assert seen == [set()]
        assert left(cache) == set()

    async def test_an_error_of_the_store_reaches_the_caller_and_answers_are_gone(
        self, call: Form, inner: Watched, cache: SemanticCache
    ) -> None:
        def during() -> None:
            answer(cache, document_tag("a"))
            raise OSError("the disk is gone")

        inner.during = during
        with pytest.raises(OSError, match="the disk is gone"):
            await call(InvalidatingDocstore(inner, cache), "delete_ref_doc", "a")
        assert left(cache) == set()

    async def test_an_answer_made_until_documents_are_added_again_is_dropped_then(
        self, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        await call(docstore, "delete_ref_doc", "a")
        answer(cache, document_tag("a"))
        await call(docstore, "add_documents", [document("new", "new")])
        assert left(cache) == ALL - OF_A


class TestFailingOpen:
    async def test_documents_change_where_answers_cannot_be_dropped(
        self, call: Form, docstore: Any, cache: SemanticCache, warnings_of: Any
    ) -> None:
        cache.close()
        await call(docstore, "delete_ref_doc", "a")
        assert docstore.get_ref_doc_info("a") is None
        assert cache._process.counters.failures()["invalidate"] == 2
        assert len(warnings_of("invalidate failed")) == 1

    async def test_it_is_tried_again_when_documents_are_next_added(
        self, call: Form, docstore: Any, cache: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*args: Any, **kwargs: Any) -> int:
            raise SemcacheError("broken")

        with monkeypatch.context() as patched:
            patched.setattr(cache, "invalidate", broken)
            await call(docstore, "delete_ref_doc", "a")
            await call(docstore, "add_documents", [document("b", "2")])
        assert left(cache) == ALL
        await call(docstore, "add_documents", [document("new", "new")])
        assert left(cache) == ALL - OF_A - {document_tag("b")}


class TestDelegating:
    def test_every_method_of_a_docstore_is_handed_on(self) -> None:
        for name, of_base in vars(BaseDocumentStore).items():
            if not name.startswith("_"):
                assert name in vars(InvalidatingDocstore)
                assert callable(of_base) or isinstance(of_base, property)

    async def test_reading_gives_what_the_inner_store_gives(
        self, call: Form, docstore: InvalidatingDocstore
    ) -> None:
        inner = docstore._docstore
        reads: list[tuple[Any, ...]] = [
            ("get_document", "a1"),
            ("document_exists", "b"),
            ("get_document_hash", "a"),
            ("get_all_document_hashes",),
            ("get_ref_doc_info", "a"),
            ("get_all_ref_doc_info",),
            ("get_node", "a1"),
            ("get_nodes", ["a1", "a2"]),
            ("get_node_dict", {7: "a1"}),
        ]
        for name, *arguments in reads:
            found = await call(docstore, name, *arguments)
            assert found and found == await call(inner, name, *arguments)
        assert await call(docstore, "get_document", "none", raise_error=False) is None
        assert docstore.docs == inner.docs
        assert docstore.to_dict() == inner.to_dict()  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            getattr(docstore, "no such thing")

    async def test_arguments_are_handed_on_as_they_came(
        self, call: Form, docstore: Any, cache: SemanticCache
    ) -> None:
        await call(docstore, "add_documents", [document("n", "n")], store_text=False)
        assert docstore.get_document_hash("n") and not docstore.document_exists("n")
        with pytest.raises(ValueError, match="already exists"):
            await call(docstore, "add_documents", [document("b", "b")], False)
        with pytest.raises(ValueError, match="not found"):
            await call(docstore, "delete_document", "none")
        await call(docstore, "delete_ref_doc", "none", raise_error=False)

    def test_the_inner_stores_batch_size_is_kept(self, cache: SemanticCache) -> None:
        class Noting(SimpleDocumentStore):
            def add_documents(self, *args: Any, **kwargs: Any) -> None:
                given.append((len(args), kwargs))

        given: list[Any] = []
        InvalidatingDocstore(Noting(), cache).add_documents([])
        assert given == [(1, {})]

    def test_it_persists_the_inner_store(self, docstore: Any, tmp_path: Path) -> None:
        StorageContext.from_defaults(docstore=docstore).persist(str(tmp_path / "storage"))
        loaded = SimpleDocumentStore.from_persist_dir(str(tmp_path / "storage"))
        assert loaded.docs == docstore.docs

    @pytest.mark.parametrize("wrong", [None, "docstore", SimpleDocumentStore])
    def test_anything_else_is_refused_with_its_value(
        self, wrong: Any, cache: SemanticCache
    ) -> None:
        with pytest.raises(SemcacheError, match="docstore must be"):
            InvalidatingDocstore(wrong, cache)
        with pytest.raises(SemcacheError, match="cache must be"):
            InvalidatingDocstore(SimpleDocumentStore(), wrong)


DOCS = st.sampled_from("abc")
OPERATIONS = st.one_of(
    st.tuples(st.just("add"), DOCS, st.sampled_from(["1", "2"])),
    st.tuples(st.just("hash"), DOCS, st.sampled_from(["1", "2"])),
    st.tuples(st.just("delete"), DOCS, st.just("")),
    st.tuples(st.just("answer"), DOCS, st.just("")),
)


@settings(max_examples=40)
@given(st.lists(OPERATIONS, max_size=25))
def test_no_answer_outlives_its_document(operations: list[Any]) -> None:
    with SemanticCache(path=None, embedder=WordEmbedder()) as cache:
        docstore = InvalidatingDocstore(SimpleDocumentStore(), cache)
        known: dict[str, str] = {}
        answered: set[str] = set()
        unsettled: set[str] = set()
        for operation, doc_id, text in operations:
            new = document(doc_id, text)
            changed = known.get(doc_id, new.hash) != new.hash
            if operation == "answer":
                answer(cache, document_tag(doc_id))
                answered.add(doc_id)
            elif operation == "delete":
                docstore.delete_document(doc_id, raise_error=False)
                known.pop(doc_id, None)
                unsettled.add(doc_id)
            elif operation == "hash":
                docstore.set_document_hash(doc_id, new.hash)
                known[doc_id] = new.hash
                unsettled |= {doc_id} if changed else set()
            else:
                docstore.add_documents([new])
                known[doc_id] = new.hash
                answered -= unsettled | ({doc_id} if changed else set())
                unsettled = set()
            if operation == "delete" or (operation == "hash" and changed):
                answered.discard(doc_id)
            assert left(cache) == set(map(document_tag, answered))
