"""Stored answers as streams."""

from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    TextBlock,
    ThinkingBlock,
)
from scripted_llms import calling

from llamaindex_semcache.calls import chat_items, completion_items

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.lists(TEXT, max_size=3))
def test_the_deltas_of_a_chat_add_up_to_its_texts(texts: list[str]) -> None:
    blocks = [ThinkingBlock(content="hm"), *(TextBlock(text=text) for text in texts)]
    answer = ChatResponse(
        message=ChatMessage(role="assistant", blocks=blocks, additional_kwargs={"a": 1}),
        additional_kwargs={"b": 2},
        raw={"semcache": {}},
    )
    items = list(chat_items(answer))
    assert "".join(item.delta or "" for item in items) == "".join(texts)
    so_far = ""
    for item in items:
        so_far += item.delta or ""
        shown = [block.text for block in item.message.blocks if isinstance(block, TextBlock)]
        assert "".join(shown) == so_far
        assert item.raw == {"semcache": {}}
    assert items[-1].message == answer.message and items[-1].additional_kwargs == {"b": 2}
    assert all(item.delta is not None for item in items)
    assert all(not item.additional_kwargs for item in items[:-1])


@given(TEXT)
def test_so_do_those_of_a_completion(text: str) -> None:
    items = list(completion_items(CompletionResponse(text=text, additional_kwargs={"b": 2})))
    assert "".join(item.delta or "" for item in items) == items[-1].text == text
    assert items[-1].additional_kwargs == {"b": 2}


def test_a_long_word_comes_in_parts() -> None:
    items = list(completion_items(CompletionResponse(text="今天天气怎么样" * 10)))
    assert len(items) == 4


def test_tool_calls_alone_are_one_item() -> None:
    [item] = chat_items(calling("clock"))
    assert item.delta == "" and item.message == calling("clock").message
