"""An ingestion pipeline that does nothing twice, also after a restart and in several processes.

Run it with `python examples/ingestion_pipeline.py`; put your own embedding model in for the mock.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from llama_index.core import Document
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter

from llamaindex_semcache import SemcacheKVStore


class Counting(MockEmbedding):
    """Stands in for a model that costs money: counts the texts that it is given."""

    embedded: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        self.embedded += 1
        return super()._get_text_embedding(text)


def ingest(path: Path, documents: list[Document]) -> None:
    """What the app does at each start. With num_workers=2 all its processes share the path."""
    vectors = SemcacheKVStore(path=path, namespace="mock-embedding")  # each model has its own
    model = Counting(embed_dim=8, embeddings_cache=vectors)
    steps = SemcacheKVStore(path=path)
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(), model], cache=IngestionCache(cache=steps)
    )
    nodes = pipeline.run(documents=documents)
    hits = steps.cache.stats().exact_hits
    print(f"{len(nodes)} nodes: {hits} of 2 steps from the cache, {model.embedded} texts embedded")
    for store in (vectors, steps):
        store.cache.close()


def main() -> None:
    documents = [Document(text=f"Chapter {n} of the manual.", doc_id=str(n)) for n in range(5)]
    with TemporaryDirectory() as directory:
        path = Path(directory)
        ingest(path, documents)
        ingest(path, documents)  # as after a restart
        documents[3] = Document(text="Chapter 3, now longer.", doc_id="3")
        ingest(path, documents)  # each step is done again, but only the new text is embedded


if __name__ == "__main__":
    main()
