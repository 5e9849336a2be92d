"""LLMs in an ingestion pipeline: titles and summaries by a CachedLLM, also in worker processes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from llama_index.core import Document
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.extractors import KeywordExtractor, SummaryExtractor, TitleExtractor
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from scripted_llms import ScriptedLLM, said

from llamaindex_semcache import CachedLLM

KINDS = {
    "titles": (TitleExtractor, "document_title"),
    "keywords": (KeywordExtractor, "excerpt_keywords"),
    "summaries": (SummaryExtractor, "section_summary"),
}
# alike enough for a hit by meaning, were they questions
DOCUMENTS = [
    Document(text=f"Our shop repairs old {thing} for you", doc_id=thing)
    for thing in ("cups", "pans")
]


def _say_what_is_shown(messages: Sequence[ChatMessage], arguments: dict[str, Any]) -> ChatResponse:
    text = str(messages[-1].content)
    return said(f"All our shop says about old {'cups' if 'cups' in text else 'pans'}")


@pytest.mark.parametrize("is_chat_model", [True, False], ids=["chat", "completion"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_extracted_is_of_the_very_document(
    bench: Bench, kind: str, is_chat_model: bool
) -> None:
    """A text on a single line would be a question, if its template had no place for documents."""
    extractor, field = KINDS[kind]
    inner = ScriptedLLM(script=_say_what_is_shown, is_chat_model=is_chat_model)
    llm = CachedLLM(llm=inner, cache=bench.open())
    told, calls = [], []
    for _ in range(2):
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(), extractor(llm=llm, show_progress=False)]  # type: ignore[call-arg]
        )
        nodes = pipeline.run(documents=DOCUMENTS)
        told.append([node.metadata[field].split()[-1] for node in nodes])
        calls.append(inner.calls)
    assert told == [["cups", "pans"]] * 2
    assert calls[0] == calls[1] and llm.stats().semantic_hits == 0


def test_a_pipelines_own_cache_tells_llms_apart(bench: Bench) -> None:
    """Trap 22: one that is hashed without the LLM in it would give the other model's titles."""
    steps = IngestionCache()
    cache = bench.open()
    inner = [ScriptedLLM(name, model=name) for name in ("one", "two")]
    for llm in [*inner, *inner]:
        title = TitleExtractor(llm=CachedLLM(llm=llm, cache=cache), show_progress=False)
        pipeline = IngestionPipeline(transformations=[title], cache=steps)
        [node] = pipeline.run(documents=DOCUMENTS[:1])
        assert node.metadata["document_title"] == llm.model
    assert [llm.calls for llm in inner] == [2, 2]  # of the node, and of its document


IN_WORKERS = """
import json, os, sys, warnings
from pathlib import Path
from typing import Any
warnings.simplefilter("ignore")
from llama_index.core.extractors import TitleExtractor
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import NodeRelationship, RelatedNodeInfo, TextNode
from llamaindex_semcache import CachedLLM

directory = Path(sys.argv[1])


class Noting(CustomLLM):
    model: str = "noting-1"

    @property
    def metadata(self):
        return LLMMetadata(model_name="noting")

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
        with (directory / "calls").open("a") as calls:
            calls.write(f"{os.getpid()}\\n")
        [named] = [word for word in prompt.split() if "#" in word]
        return CompletionResponse(text=f"title of {named}")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any):
        raise NotImplementedError


def node(n):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=str(n))}
    return TextNode(text=f"Text number#{n} of all texts", id_=f"node {n}", relationships=source)


def main():
    llm = CachedLLM(llm=Noting(), path=directory / "cache")
    told = []
    for _ in range(2):
        title = TitleExtractor(llm=llm, show_progress=False)
        pipeline = IngestionPipeline(transformations=[title], disable_cache=True)
        nodes = pipeline.run(nodes=[node(n) for n in range(4)], num_workers=2)
        calls = (directory / "calls").read_text().split()
        told.append([len(calls), sorted(node.metadata["document_title"] for node in nodes)])
    print(json.dumps([*told, str(os.getpid()) in calls]))


if __name__ == "__main__":
    main()
"""


def test_workers_ask_the_cache_of_a_path(tmp_path: Path) -> None:
    script = tmp_path / "extract.py"
    script.write_text(IN_WORKERS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # a worker that dies is waited for without end
    )
    assert done.returncode == 0, done.stderr
    first, second, by_parent = json.loads(done.stdout.splitlines()[-1])
    assert first == second
    assert first == [8, [f"title of number#{n}" for n in range(4)]]  # each node, each document
    assert not by_parent
