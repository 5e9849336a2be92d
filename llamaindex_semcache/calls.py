"""How the LLM inside a `CachedLLM` is asked, and how a stored answer becomes a stream."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from semcache_core.adapters import ModelCall, pieces

from llamaindex_semcache.request import Question
from llamaindex_semcache.serialization import Response, calls_in, ending_so_far, said_once, worst

_OF_AN_ITEM = "thinking_delta"  # belongs to one item of a stream only


@asynccontextmanager
async def closed_after(given: object) -> AsyncIterator[None]:
    """Close a stream in the end, if possible: a custom LLM may return any iterator."""
    try:
        yield
    finally:
        close = getattr(given, "aclose", None)
        if close is not None:
            await close()


def _chat(question: Question) -> Generator[ChatResponse, None, None]:
    yield question.llm.chat(list(question.messages), **question.arguments)


async def _achat(question: Question) -> AsyncGenerator[ChatResponse, None]:
    yield await question.llm.achat(list(question.messages), **question.arguments)


def _stream_chat(question: Question) -> Generator[ChatResponse, None, None]:
    yield from question.llm.stream_chat(list(question.messages), **question.arguments)


async def _astream_chat(question: Question) -> AsyncGenerator[ChatResponse, None]:
    given = await question.llm.astream_chat(list(question.messages), **question.arguments)
    async with closed_after(given):
        async for item in given:
            yield item


def _complete(question: Question) -> Generator[CompletionResponse, None, None]:
    yield question.llm.complete(question.prompt or "", **question.arguments)


async def _acomplete(question: Question) -> AsyncGenerator[CompletionResponse, None]:
    yield await question.llm.acomplete(question.prompt or "", **question.arguments)


def _stream_complete(question: Question) -> Generator[CompletionResponse, None, None]:
    yield from question.llm.stream_complete(question.prompt or "", **question.arguments)


async def _astream_complete(question: Question) -> AsyncGenerator[CompletionResponse, None]:
    given = await question.llm.astream_complete(question.prompt or "", **question.arguments)
    async with closed_after(given):
        async for item in given:
            yield item


def _kept_chat(item: ChatResponse) -> ChatResponse:
    """Return a copy of `item`, without text that the deltas hold too.

    Each item of a stream holds all the text so far, so all copies would take quadratic space.
    """
    message = said_once(item.message)
    in_deltas = bool(item.delta) and len(_texts(message)) == 1
    blocks = [
        TextBlock(text="") if in_deltas and isinstance(block, TextBlock) else deepcopy(block)
        for block in message.blocks
    ]
    kwargs = deepcopy(message.additional_kwargs)
    own = {"message": message.model_copy(update={"blocks": blocks, "additional_kwargs": kwargs})}
    return item.model_copy(update={**_kept(item), **own})


def _kept_completion(item: CompletionResponse) -> CompletionResponse:
    text = "" if item.delta else item.text
    return item.model_copy(update={**_kept(item), "text": text})


def _kept(item: Response) -> dict[str, Any]:
    reason = ending_so_far(item)
    return {
        "raw": None if reason is None else {"finish_reason": reason},
        "additional_kwargs": dict(item.additional_kwargs),
    }


def _whole_chat(question: Question, items: Sequence[ChatResponse]) -> ChatResponse | None:
    """Return what `chat` would have given in place of this stream.

    None where the last item is incomplete: it lacks blocks or tool calls of earlier items, or its
    text differs from the sum of the deltas.
    """
    text = _streamed_text([(item.delta, "".join(_texts(item.message))) for item in items])
    if not items or text is None:
        return None
    last = items[-1].message
    blocks = _with_text(last.blocks, text)
    if blocks is None or _lost(items):
        return None
    message = last.model_copy(update={"blocks": blocks})
    return ChatResponse(message=message, **_gathered(items))


def _whole_completion(
    question: Question, items: Sequence[CompletionResponse]
) -> CompletionResponse | None:
    text = _streamed_text([(item.delta, item.text) for item in items])
    return CompletionResponse(text=text, **_gathered(items)) if items and text is not None else None


def _streamed_text(items: Sequence[tuple[str | None, str]]) -> str | None:
    """Join the text of a stream from each item's delta and text so far; None if they conflict.

    The deltas decide, as an app shows them: the text so far may belong to one item only, or be
    late. It counts where an item has no delta.
    """
    text = ""
    for delta, so_far in items:
        if delta:
            text += delta
        elif so_far.startswith(text):
            text = so_far
        elif not text.startswith(so_far):
            return None
    return text


def _with_text(blocks: Sequence[ContentBlock], text: str) -> list[ContentBlock] | None:
    """Return `blocks` with `text`; None where several text blocks add up to another text."""
    places = [i for i, block in enumerate(blocks) if isinstance(block, TextBlock)]
    if len(places) > 1:
        together = "".join(block.text for block in blocks if isinstance(block, TextBlock))
        return list(blocks) if together == text else None
    if not places and not text:
        return list(blocks)
    after = (i for i, block in enumerate(blocks) if not isinstance(block, ThinkingBlock))
    at = places[0] if places else next(after, len(blocks))
    return [*blocks[:at], TextBlock(text=text), *blocks[at + len(places) :]]


def _lost(items: Sequence[ChatResponse]) -> bool:
    """Whether an item held something that the last one lacks."""
    last = items[-1].message
    kinds = {type(block) for block in last.blocks}
    held = {type(block) for item in items for block in item.message.blocks}
    called = any(calls_in(item.message.additional_kwargs) for item in items)
    calls = ToolCallBlock in kinds or bool(calls_in(last.additional_kwargs))
    return bool(held - kinds - {TextBlock}) or (called and not calls)


def _gathered(items: Sequence[Response]) -> dict[str, Any]:
    """Return all but the answer itself. The finish reason need not be in the last item."""
    kwargs = {name: value for item in items for name, value in item.additional_kwargs.items()}
    kwargs.pop(_OF_AN_ITEM, None)
    reason = worst([reason for reason in map(ending_so_far, items) if reason is not None])
    return {
        "raw": None if reason is None else {"finish_reason": reason},
        "additional_kwargs": kwargs,
        "logprobs": [one for item in items for one in item.logprobs or []] or None,
    }


def _texts(message: ChatMessage) -> list[str]:
    return [block.text for block in message.blocks if isinstance(block, TextBlock)]


CHAT: ModelCall[Question, ChatResponse, ChatResponse] = ModelCall(
    _chat, _achat, copy=lambda response: response, whole=lambda question, given: given[0]
)
CHAT_STREAM: ModelCall[Question, ChatResponse, ChatResponse] = ModelCall(
    _stream_chat, _astream_chat, copy=_kept_chat, whole=_whole_chat
)
COMPLETION: ModelCall[Question, CompletionResponse, CompletionResponse] = ModelCall(
    _complete, _acomplete, copy=lambda response: response, whole=lambda question, given: given[0]
)
COMPLETION_STREAM: ModelCall[Question, CompletionResponse, CompletionResponse] = ModelCall(
    _stream_complete, _astream_complete, copy=_kept_completion, whole=_whole_completion
)


def chat_items(answer: ChatResponse) -> Iterator[ChatResponse]:
    """Yield `answer` in items whose deltas add up to its text; the last item is `answer` itself."""
    done: list[ContentBlock] = []
    held: ChatResponse | None = None  # one item late: the last one is replaced by the answer
    for block in answer.message.blocks:
        if not isinstance(block, TextBlock):
            continue
        so_far = ""
        for piece in pieces(block.text):
            if held is not None:
                yield held
            so_far += piece
            blocks = [*done, TextBlock(text=so_far)]
            message = ChatMessage(role=answer.message.role, blocks=blocks)
            held = ChatResponse(message=message, delta=piece, raw=answer.raw)
        done.append(block.model_copy())
    yield answer.model_copy(update={"delta": "" if held is None else held.delta})


def completion_items(answer: CompletionResponse) -> Iterator[CompletionResponse]:
    so_far = ""
    *earlier, last = pieces(answer.text) or [""]
    for piece in earlier:
        so_far += piece
        yield CompletionResponse(text=so_far, delta=piece, raw=answer.raw)
    yield answer.model_copy(update={"delta": last})
