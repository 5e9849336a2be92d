"""IngestionPipeline over SemcacheKVStore: a transformation is done once, by whichever process."""

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, TextNode, TransformComponent

from llamaindex_semcache.kvstore import SemcacheKVStore


class Shouting(TransformComponent):
    """Says everything louder, and counts how often it was asked to."""

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        CALLS.append(len(nodes))
        return [TextNode(text=node.get_content().upper(), metadata=node.metadata) for node in nodes]


CALLS: list[int] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def kv(tmp_path: Path) -> SemcacheKVStore:
    return SemcacheKVStore(path=tmp_path / "kv")


def pipeline(kv: SemcacheKVStore, *more: TransformComponent) -> IngestionPipeline:
    return IngestionPipeline(transformations=[Shouting(), *more], cache=IngestionCache(cache=kv))


async def run(form: str, pipeline: IngestionPipeline, *texts: str, **how: Any) -> list[str]:
    documents = [Document(text=text, doc_id=text) for text in texts]
    if form == "run":
        nodes = pipeline.run(documents=documents, **how)
    else:
        nodes = await pipeline.arun(documents=documents, **how)
    return [node.get_content() for node in nodes]


forms = pytest.mark.parametrize("form", ["run", "arun"])


def test_a_cache_gives_back_the_nodes_that_were_put(kv: SemcacheKVStore) -> None:
    cache = IngestionCache(cache=kv, collection="mine")
    nodes = [TextNode(text="a ü \x00", embedding=[0.1 + 0.2, 1e-17], metadata={"n": 1})]
    cache.put("hash", nodes)
    assert cache.get("hash") == nodes
    assert cache.get("hash", collection="other") is None
    assert cache.get("Hash") is None
    cache.put("other", nodes, collection="other")
    cache.clear()
    assert cache.get("hash") is None
    assert cache.get("other", collection="other") == nodes


@forms
async def test_a_second_run_transforms_nothing(form: str, kv: SemcacheKVStore) -> None:
    first = await run(form, pipeline(kv, MockEmbedding(embed_dim=2)), "a", "b")
    again = await run(form, pipeline(kv, MockEmbedding(embed_dim=2)), "a", "b")
    assert first == again == ["A", "B"]
    assert CALLS == [2]


@forms
async def test_other_text_and_another_collection_are_transformed(
    form: str, kv: SemcacheKVStore
) -> None:
    assert await run(form, pipeline(kv), "one text") == ["ONE TEXT"]
    assert await run(form, pipeline(kv), "one text!") == ["ONE TEXT!"]
    await run(form, pipeline(kv), "one text", cache_collection="other")
    assert CALLS == [1, 1, 1]


@forms
async def test_a_store_that_fails_leaves_the_pipeline_as_it_would_be_without(
    form: str, kv: SemcacheKVStore
) -> None:
    kv.cache.close()
    assert await run(form, pipeline(kv), "a") == ["A"]
    assert await run(form, pipeline(kv), "a") == ["A"]
    assert CALLS == [1, 1]


def test_nodes_that_are_no_json_are_transformed_each_time(kv: SemcacheKVStore) -> None:
    document = Document(text="a", metadata={"on": date(2025, 1, 1)})
    for _ in range(2):
        (node,) = pipeline(kv).run(documents=[document])
        assert node.metadata == {"on": date(2025, 1, 1)}
    assert CALLS == [1, 1]
    assert kv.cache.stats().failures == {"put": 2}


def test_a_cleared_cache_transforms_again(kv: SemcacheKVStore) -> None:
    made = pipeline(kv)
    made.run(documents=[Document(text="a")])
    made.cache.clear()
    made.run(documents=[Document(text="a")])
    assert CALLS == [1, 1]


def test_there_is_nothing_to_persist(kv: SemcacheKVStore, tmp_path: Path) -> None:
    made = pipeline(kv)
    made.run(documents=[Document(text="a")])
    made.persist(str(tmp_path / "persisted"))
    assert not (tmp_path / "persisted").exists()
    SemcacheKVStore(path=tmp_path / "kv").cache.close()
    assert pipeline(kv).run(documents=[Document(text="a")])
    assert CALLS == [1]


def test_a_splitter_keeps_its_nodes_ids_over_runs(kv: SemcacheKVStore) -> None:
    made = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=25, chunk_overlap=0)],
        cache=IngestionCache(cache=kv),
    )
    first = made.run(documents=[Document.example()])
    assert len(first) > 10
    assert made.run(documents=[Document.example()]) == first


# A process of its own, as the workers import its main module anew.
IN_WORKERS = """
import asyncio, json, os, sys
from pathlib import Path
from llama_index.core import Document
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TransformComponent
from llamaindex_semcache.kvstore import SemcacheKVStore

directory = Path(sys.argv[1])


class Noting(TransformComponent):
    def __call__(self, nodes, **kwargs):
        with (directory / "calls").open("a") as calls:
            calls.write(f"{os.getpid()}\\n")
        return nodes


def calls():
    made = directory / "calls"
    return made.read_text().split() if made.exists() else []


def main():
    store = SemcacheKVStore(path=directory / "kv")
    embeddings = SemcacheKVStore(path=directory / "kv", namespace="mock")
    model = MockEmbedding(embed_dim=2, embeddings_cache=embeddings)
    pipeline = IngestionPipeline(
        transformations=[Noting(), model], cache=IngestionCache(cache=store)
    )
    told = []
    for form in ("run", "run", "arun"):
        documents = [Document(text=f"text {n}", doc_id=str(n)) for n in range(4)]
        before = calls()
        if form == "run":
            nodes = pipeline.run(documents=documents, num_workers=2)
        else:
            nodes = asyncio.run(pipeline.arun(documents=documents, num_workers=2))
        told.append([len(calls()) - len(before), [n.get_content() for n in nodes]])
    told.append(str(os.getpid()) in calls())
    told.append(len(store.get_all("llama_cache")))
    told.append(sorted(embeddings.get_all("embeddings")))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_workers_share_the_store_of_a_path(tmp_path: Path) -> None:
    script = tmp_path / "ingest.py"
    script.write_text(IN_WORKERS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *runs, by_parent, rows, embedded = json.loads(done.stdout.splitlines()[-1])
    texts = [f"text {n}" for n in range(4)]
    assert [sorted(found) for _, found in runs] == [texts] * 3
    made = [count for count, _ in runs]
    assert made[0] > 0 and made[1:] == [0, 0]
    assert not by_parent
    assert rows == 2 * made[0]
    assert len(embedded) == 4
