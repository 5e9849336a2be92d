"""Nodes are found in a prompt by their very texts, and nothing else stands for them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import (
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    RelatedNodeInfo,
    TextNode,
)
from semcache_core import SemcacheError

from llamaindex_semcache.documents import SourceNodes, Sources, holds_nodes, without_nodes


def node(text: str, node_id: str = "n", document: str | None = "d", **metadata: str) -> TextNode:
    source = (
        {} if document is None else {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)}
    )
    return TextNode(text=text, id_=node_id, relationships=source, metadata=metadata)


def recorded(*nodes: TextNode, limit: int = 100) -> Sources:
    sources = Sources(limit)
    sources.record(nodes)
    return sources


BASEL = node("Basel is a city.\nIt lies on the Rhine.", "basel", "swiss")
BERN = node("Bern is the capital.", "bern", "swiss", file="bern.txt")
PARIS = node("Paris is in France.", "paris", "french")


def shown(each: TextNode) -> str:
    return each.get_content(metadata_mode=MetadataMode.LLM)


def prompt(*nodes: TextNode) -> str:
    documents = "\n\n".join(shown(each) for each in nodes)
    return f"Context:\n{documents}\n---\nQuery: how warm"


# -- what is found ---------------------------------------------------------------------------------


def test_a_node_is_replaced_by_a_mark_and_tags_the_answer() -> None:
    found = recorded(BASEL, BERN, PARIS).find(prompt(BERN))
    assert "capital" not in found.frame
    assert found.frame.startswith("Context:\n") and found.frame.endswith("\n---\nQuery: how warm")
    assert found.tags == ("document:swiss", "node:bern")
    assert len(found.hashes) == 1


def test_the_order_of_nodes_does_not_show() -> None:
    sources = recorded(BASEL, BERN, PARIS)
    one, two = sources.find(prompt(BASEL, BERN, PARIS)), sources.find(prompt(PARIS, BASEL, BERN))
    assert one == two
    assert one.frame.count("\x00nodes") == 1


@pytest.mark.parametrize("others", [(BASEL,), (BASEL, BERN), (BASEL, BERN, PARIS), (BERN, BERN)])
def test_other_nodes_show(others: tuple[TextNode, ...]) -> None:
    sources = recorded(BASEL, BERN, PARIS)
    assert sources.find(prompt(*others)).frame != sources.find(prompt(BASEL, PARIS)).frame


def test_nodes_in_two_places_cannot_change_them_unseen() -> None:
    sources = recorded(BASEL, PARIS)
    one = f"Facts:\n{shown(BASEL)}\nRumours:\n{shown(PARIS)}"
    two = f"Facts:\n{shown(PARIS)}\nRumours:\n{shown(BASEL)}"
    assert sources.find(one).hashes == sources.find(two).hashes
    assert sources.find(one).frame != sources.find(two).frame


def test_the_longest_node_is_taken() -> None:
    part = node("Basel is a city.", "part")
    assert (
        recorded(part, BASEL).find(prompt(BASEL)).frame == recorded(BASEL).find(prompt(BASEL)).frame
    )


def test_nodes_with_the_same_first_line_are_told_apart() -> None:
    nodes = [node(f"the text of number {i}", f"n{i}", file="same.txt") for i in range(20)]
    found = recorded(*nodes).find(prompt(nodes[7]))
    assert found.tags == ("document:d", "node:n7")


def test_an_indented_node_is_found() -> None:
    text = f"  Documents:\n\n  {shown(BASEL)}\n\n  Instruction: answer."
    found = recorded(BASEL).find(text)
    assert found.hashes and "Rhine" not in found.frame


def test_all_nodes_with_the_same_text_tag_the_answer() -> None:
    twin = node(BASEL.text, "twin", None)
    found = recorded(BASEL, twin).find(prompt(BASEL))
    assert found.tags == ("document:swiss", "node:basel", "node:twin")
    assert found.frame == recorded(BASEL).find(prompt(BASEL)).frame


@pytest.mark.parametrize(
    "text",
    [
        "Query: Bern is the capital.",
        "Bern is the capital. Is it?",
        "bern is the capital.",
        "Basel is a city.\nIt lies on the Rhone.",
        "",
    ],
)
def test_what_is_not_the_whole_text_on_its_own_lines_stays(text: str) -> None:
    found = recorded(BASEL, node("Bern is the capital.", "bern")).find(text)
    assert (found.frame, found.hashes) == (text, frozenset())


def test_a_mark_in_a_text_is_no_node() -> None:
    sources = recorded(BASEL)
    forged = sources.find(prompt(BASEL)).frame
    assert sources.find(forged).hashes == frozenset()
    assert sources.find(forged + "\n" + BASEL.text).frame == forged + "\n" + BASEL.text


def test_marks_can_be_made_equal() -> None:
    sources = recorded(BASEL, PARIS)
    one, two = sources.find(prompt(BASEL)).frame, sources.find(prompt(PARIS)).frame
    assert without_nodes(one) == without_nodes(two) != one
    assert holds_nodes(one) and not holds_nodes(prompt(BASEL))


# -- nodes that were cut ---------------------------------------------------------------------------


def test_each_part_of_a_cut_node_tags_the_answer() -> None:
    sentences = [f"In the year {y} the river rose by {y % 7} metres, they say." for y in range(60)]
    long = node(" ".join(sentences), "long", "chronicle")
    sources = recorded(long, PARIS)
    parts = TokenTextSplitter(chunk_size=60, chunk_overlap=0).split_text(long.text)
    assert len(parts) > 5
    for part in parts[:-1]:
        found = sources.find(f"Context:\n{part}\nQuery: how warm")
        assert found.tags == ("document:chronicle", "node:long")
        assert part in found.frame
    assert len(parts[-1]) < 24  # so little tells nothing
    assert sources.find(parts[-1]).tags == ()


@pytest.mark.parametrize(
    "cut",
    ["the river rose by many metres", "In the year 1800 the river rose"],
    ids=["end", "start"],
)
def test_a_sentence_that_was_cut_is_known_by_what_is_left_of_it(cut: str) -> None:
    whole = "In the year 1800 the river rose by many metres"
    found = recorded(node(f"All was dry. {whole}. Then it fell.", "long")).find(f"Now:\n{cut}")
    assert found.tags == ("document:d", "node:long")


def test_nodes_that_are_shown_as_the_repr_of_a_list_tag_the_answer() -> None:
    texts = [shown(BASEL) + "\nIt has a zoo and a harbour.", "'Bern' is the capital, they say."]
    sources = recorded(node(texts[0], "one"), node(texts[1], "two"))
    assert sources.find(f"Context:\n{texts}\n---").tags == ("document:d", "node:one", "node:two")
    assert sources.find(f"Context:\n{[chr(10).join(texts)]}\n---").tags[1:] == (
        "node:one",
        "node:two",
    )


def test_a_line_that_many_nodes_share_tells_none_of_them() -> None:
    line = "All rights of this text are reserved"
    sources = recorded(*(node(f"{line}.\nNumber {i}.", f"n{i}") for i in range(40)))
    assert sources.find(f"{line}. Well.").tags == ()


# -- what is remembered ----------------------------------------------------------------------------


def test_the_oldest_nodes_are_forgotten_unless_they_come_again() -> None:
    sources = recorded(BASEL, BERN, limit=2)
    sources.record([BASEL])
    sources.record([PARIS])
    assert [bool(sources.find(prompt(each)).hashes) for each in (BASEL, BERN, PARIS)] == [1, 0, 1]


@pytest.mark.parametrize("limit", [0, -1, None, "many"])
def test_a_limit_that_keeps_nothing_is_refused(limit: object) -> None:
    with pytest.raises(SemcacheError, match="limit must be a number of nodes above 0"):
        Sources(limit)  # type: ignore[arg-type]


def test_an_empty_node_is_not_looked_for() -> None:
    assert recorded(node(" \n")).find("a\n\nb").frame == "a\n\nb"


def test_nodes_may_be_recorded_and_found_by_several_threads() -> None:
    sources, nodes = Sources(50), [node(f"text {i}\nof {i}", f"n{i}") for i in range(200)]

    def work(each: TextNode) -> str:
        sources.record([each])
        return sources.find(prompt(each)).frame

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, nodes))) == 200


WORDS = st.sampled_from(["a", "b", "Basel is a city", "  x", "", "\x00", "a sentence. With two."])
LINES = st.lists(WORDS, max_size=4).map("\n".join)


class Registry(RuleBasedStateMachine):
    """Against a search of every text in every place."""

    def __init__(self) -> None:
        super().__init__()
        self.sources, self.kept = Sources(3), dict[str, None]()

    @rule(text=LINES)
    def record(self, text: str) -> None:
        self.sources.record([node(text, text)])
        if text := text.strip():
            self.kept.pop(text, None)
            self.kept[text] = None
        self.kept = dict.fromkeys([*self.kept][-3:])

    @rule(text=LINES)
    def find(self, text: str) -> None:
        lines = text.split("\n")
        ends = range(len(lines) + 1)
        runs = {"\n".join(lines[a:b]).strip() for a in ends for b in ends}
        hits = not runs.isdisjoint(self.kept) and "\x00" not in text
        assert bool(self.sources.find(text).hashes) == hits

    @invariant()
    def nothing_is_left_of_the_forgotten(self) -> None:
        assert [*self.sources._nodes] == [*self.kept]
        by_ends = self.sources._by_ends.values()
        assert sum(n for ends in by_ends for lasts in ends.values() for n in lasts.values()) == len(
            self.kept
        )
        assert {text for texts in self.sources._by_edge.values() for text in texts} <= {*self.kept}


TestRegistry = Registry.TestCase


@given(st.permutations([BASEL, BERN, PARIS]), st.integers(0, 3))
def test_any_order_of_the_same_nodes_is_the_same(nodes: list[TextNode], count: int) -> None:
    sources, some = recorded(BASEL, BERN, PARIS), nodes[:count]
    assert sources.find(prompt(*some)) == sources.find(prompt(*reversed(some)))


# -- the postprocessor -----------------------------------------------------------------------------


@dataclass
class Told:
    sources: Sources


def scored(*nodes: TextNode) -> list[NodeWithScore]:
    return [NodeWithScore(node=each, score=0.5) for each in nodes]


async def apostprocess(post: SourceNodes, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
    return await post.apostprocess_nodes(nodes, query_str="how warm")


async def postprocess(post: SourceNodes, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
    return post.postprocess_nodes(nodes, query_str="how warm")


@pytest.mark.parametrize("process", [postprocess, apostprocess])
async def test_nodes_are_given_on_unchanged_and_recorded(process: Callable[..., object]) -> None:
    told = Told(Sources())
    nodes = scored(BASEL, BERN)
    assert await process(SourceNodes(told), nodes) is nodes  # type: ignore[misc]
    assert len(told.sources.find(prompt(BASEL, BERN)).hashes) == 2


def test_an_llm_that_is_no_cached_one_is_refused() -> None:
    with pytest.raises(SemcacheError, match="got MockLLM"):
        SourceNodes(MockLLM())  # type: ignore[arg-type]
