"""The documents in a prompt: which nodes they are, and the tags of answers made from them."""

import hashlib
import os
import re
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from semcache_core import SemcacheError


def document_tag(ref_doc_id: str) -> str:
    """Return the tag of answers that were made from this document: "document:<id>"."""
    return f"document:{ref_doc_id}"


def node_tag(node_id: str) -> str:
    """Return the tag of answers that were made from this node: "node:<id>"."""
    return f"node:{node_id}"


_MARK = re.compile(r"\x00nodes(?: [0-9a-f]{64})*\x00")
# \\n too: simple_summarize shows its texts as the repr of a list
_END_OF_PART = re.compile(r"\n|\\n|[.!?;:]\s|[。！？]")
_AROUND_PART = " \t\r\n.!?;:'\"[]"
_EDGE = 24  # characters that identify the start or the end of a part of a text
_COMMON = 32  # a line of more nodes than this, such as a heading, identifies none of them


@dataclass(frozen=True)
class Found:
    """The nodes in a text: `frame` is the text with marks for them, `hashes` are their SHA-256.

    Nodes next to each other have one mark, without their order. `tags` are those of all nodes that
    the text holds, whole or in part.
    """

    frame: str
    hashes: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Node:
    text: str
    lines: int
    digest: str
    tags: frozenset[str]

    @property
    def ends(self) -> tuple[str, str]:
        """Its first and its last line."""
        lines = self.text.split("\n")
        return lines[0].rstrip(), lines[-1].lstrip()


class Sources:
    """The last `limit` node texts that a model was shown; several threads may use it.

    A node counts only where a prompt holds its whole text, on lines of its own: nodes that were
    recorded for another query never replace the documents of this one.
    """

    def __init__(self, limit: int = 2048) -> None:
        """Raises SemcacheError unless `limit` is a number above 0."""
        if not isinstance(limit, int) or limit < 1:
            raise SemcacheError(f"limit must be a number of nodes above 0, got {limit!r}; try 2048")
        self._limit = limit
        self._begin()
        if hasattr(os, "register_at_fork"):
            # A forked child may inherit a held lock. A weak reference, as hooks stay for ever.
            own = weakref.WeakMethod(self._begin)
            os.register_at_fork(after_in_child=lambda: (begin := own()) and begin())

    def _begin(self) -> None:
        """Forget everything."""
        self._lock = threading.Lock()
        self._nodes: OrderedDict[str, _Node] = OrderedDict()
        # first line -> number of lines -> last line -> how many nodes: the first line is often
        # the same, such as the name of the file
        self._by_ends: dict[str, dict[int, dict[str, int]]] = {}
        self._by_edge: dict[int, set[str]] = {}

    def record(self, nodes: Iterable[BaseNode]) -> None:
        """Remember the texts of `nodes` as a model sees them."""
        for node in nodes:
            text = node.get_content(metadata_mode=MetadataMode.LLM).strip()
            if not text:
                continue
            document = () if node.ref_doc_id is None else (document_tag(node.ref_doc_id),)
            with self._lock:
                self._record(text, frozenset((*document, node_tag(node.node_id))))

    def find(self, text: str) -> Found:
        """Find the nodes in `text`; takes well under a millisecond for 20 kB."""
        if not self._nodes:
            return Found(text)
        with self._lock:
            frame: list[str] = []
            hashes: set[str] = set()
            tags: set[str] = set()
            for piece in self._pieces(text.split("\n")):
                if isinstance(piece, str):
                    frame.append(piece)
                    continue
                frame.append(_mark(piece))
                hashes.update(node.digest for node in piece)
                tags.update(*(node.tags for node in piece))
            tags |= self._tags_of_parts("\n".join(frame))
        if "\x00" in text:  # it could hold a mark itself
            return Found(text, tags=tuple(sorted(tags)))
        return Found("\n".join(frame), frozenset(hashes), tuple(sorted(tags)))

    def _record(self, text: str, tags: frozenset[str]) -> None:
        known = self._nodes.get(text)
        if known is not None:
            self._nodes[text] = replace(known, tags=known.tags | tags)
            self._nodes.move_to_end(text)
            return
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        node = self._nodes[text] = _Node(text, text.count("\n") + 1, digest, tags)
        first, last = node.ends
        lasts = self._by_ends.setdefault(first, {}).setdefault(node.lines, {})
        lasts[last] = lasts.get(last, 0) + 1
        for edge in _edges(text):
            self._by_edge.setdefault(edge, set()).add(text)
        if len(self._nodes) > self._limit:
            self._forget(next(iter(self._nodes.values())))

    def _forget(self, node: _Node) -> None:
        del self._nodes[node.text]
        first, last = node.ends
        lengths = self._by_ends[first]
        lasts = lengths[node.lines]
        lasts[last] -= 1
        if not lasts[last]:
            del lasts[last]
        if not lasts:
            del lengths[node.lines]
        if not lengths:
            del self._by_ends[first]
        for edge in set(_edges(node.text)):
            texts = self._by_edge[edge]
            texts.discard(node.text)
            if not texts:
                del self._by_edge[edge]

    def _pieces(self, lines: list[str]) -> Iterator[str | list[_Node]]:
        """Yield the lines, with a list in place of nodes next to each other."""
        at = 0
        while at < len(lines):
            node = self._node_at(lines, at)
            if node is None:
                yield lines[at]
                at += 1
                continue
            run = [node]
            at += node.lines
            while (after := self._next(lines, at)) is not None:
                node, start = after
                run.append(node)
                at = start + node.lines
            yield run

    def _next(self, lines: list[str], at: int) -> tuple[_Node, int] | None:
        """Return the next node after blank lines from `at`, and where it starts."""
        while at < len(lines) and not lines[at].strip():
            at += 1
        node = self._node_at(lines, at) if at < len(lines) else None
        return None if node is None else (node, at)

    def _node_at(self, lines: list[str], at: int) -> _Node | None:
        """Return the longest node whose text starts at line `at`."""
        lengths = self._by_ends.get(lines[at].strip(), {})
        for length in sorted(lengths, reverse=True):
            until = at + length
            if until > len(lines) or lines[until - 1].strip() not in lengths[length]:
                continue
            text = "\n".join(lines[at:until]).strip()
            if text in self._nodes:
                return self._nodes[text]
        return None

    def _tags_of_parts(self, text: str) -> set[str]:
        """Return the tags of nodes that were cut because the prompt was full."""
        tags: set[str] = set()
        for edge in _edges(text):
            texts = self._by_edge.get(edge)
            if texts and len(texts) <= _COMMON:
                tags.update(*(self._nodes[each].tags for each in texts))
        return tags


def without_nodes(frame: str) -> str:
    """Return `frame` with the same mark for all nodes."""
    return _MARK.sub("\x00nodes\x00", frame)


def holds_nodes(text: str) -> bool:
    """Whether `text` holds the mark of a node."""
    return _MARK.search(text) is not None


class HasSources(Protocol):
    """An LLM that records its sources, such as CachedLLM."""

    @property
    def sources(self) -> Sources: ...


class SourceNodes(BaseNodePostprocessor):
    """Records for a CachedLLM the nodes of its prompts; passes them on unchanged.

    Put it last in the `node_postprocessors` of a query engine or a chat engine. An answer is then
    shared by questions with the same nodes, in any order, and dropped when one of their documents
    changes.
    """

    _sources: Sources = PrivateAttr()

    def __init__(self, llm: HasSources, **fields: Any) -> None:
        """Raises SemcacheError for an LLM that is not a CachedLLM."""
        sources = getattr(llm, "sources", None)
        if not isinstance(sources, Sources):
            raise SemcacheError(
                f"SourceNodes needs the CachedLLM that answers, got {type(llm).__name__}; "
                "wrap it: CachedLLM(llm=...)"
            )
        super().__init__(**fields)
        self._sources = sources

    @classmethod
    def class_name(cls) -> str:
        return "SourceNodes"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        self._sources.record(each.node for each in nodes)
        return nodes

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return self._postprocess_nodes(nodes, query_bundle)  # too short for a thread


def _mark(nodes: list[_Node]) -> str:
    """Return a mark that names the nodes, so that other nodes give another mark."""
    return f"\x00nodes {' '.join(sorted(node.digest for node in nodes))}\x00"


def _edges(text: str) -> Iterator[int]:
    """Yield hashes of the starts and ends of the sentences and lines of `text`.

    Where a text is cut, the sentence before the cut keeps its start, and the one after it its end.
    """
    for part in _END_OF_PART.split(text):
        part = part.strip(_AROUND_PART)
        if len(part) >= _EDGE:
            yield hash(part[:_EDGE])
            yield ~hash(part[-_EDGE:])
