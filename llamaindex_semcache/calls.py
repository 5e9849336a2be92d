"""How the LLM inside a `CachedLLM` is asked: in a chat or for a completion, whole or streamed."""

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

_OF_AN_ITEM = "thinking_delta"  # what `additional_kwargs` tell of one item of a stream only


@asynccontextmanager
async def closed_after(given: object) -> AsyncIterator[None]:
    """Close a stream in the end, if it can be: a custom LLM may give any iterator."""
    try:
        yield
    finally:
        close = getattr(given, "aclose", None)
        if close is not None:
            await close()


def _chat(call: Question) -> Generator[ChatResponse, None, None]:
    yield call.llm.chat(list(call.messages), **call.arguments)


async def _achat(call: Question) -> AsyncGenerator[ChatResponse, None]:
    yield await call.llm.achat(list(call.messages), **call.arguments)


def _stream_chat(call: Question) -> Generator[ChatResponse, None, None]:
    yield from call.llm.stream_chat(list(call.messages), **call.arguments)


async def _astream_chat(call: Question) -> AsyncGenerator[ChatResponse, None]:
    given = await call.llm.astream_chat(list(call.messages), **call.arguments)
    async with closed_after(given):
        async for item in given:
            yield item


def _complete(call: Question) -> Generator[CompletionResponse, None, None]:
    yield call.llm.complete(call.prompt or "", **call.arguments)


async def _acomplete(call: Question) -> AsyncGenerator[CompletionResponse, None]:
    yield await call.llm.acomplete(call.prompt or "", **call.arguments)


def _stream_complete(call: Question) -> Generator[CompletionResponse, None, None]:
    yield from call.llm.stream_complete(call.prompt or "", **call.arguments)


async def _astream_complete(call: Question) -> AsyncGenerator[CompletionResponse, None]:
    given = await call.llm.astream_complete(call.prompt or "", **call.arguments)
    async with closed_after(given):
        async for item in given:
            yield item


def _kept_chat(item: ChatResponse) -> ChatResponse:
    """`item` as it is now, without text that the deltas tell as well: each item of a stream holds
    all the text so far, and a thousand items would hold it a thousand times.
    """
    message = said_once(item.message)
    told = bool(item.delta) and len(_texts(message)) == 1
    blocks = [
        TextBlock(text="") if told and isinstance(block, TextBlock) else deepcopy(block)
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


def _whole_chat(call: Question, items: Sequence[ChatResponse]) -> ChatResponse | None:
    """What `chat` would have given in place of this stream.

    None where the last item is not all of it: where blocks or tool calls are missing that came
    before, or its texts are not what the deltas add up to.
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
    call: Question, items: Sequence[CompletionResponse]
) -> CompletionResponse | None:
    text = _streamed_text([(item.delta, item.text) for item in items])
    return CompletionResponse(text=text, **_gathered(items)) if items and text is not None else None


def _streamed_text(items: Sequence[tuple[str | None, str]]) -> str | None:
    """The text of a stream, from each item's delta and its text so far; None if they contradict.

    The deltas decide, as an app shows them: the text so far may be of that item alone, or lag
    behind. It counts where an item has no delta.
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
    """`blocks` with `text` as their text; None where several texts are another one together."""
    places = [i for i, block in enumerate(blocks) if isinstance(block, TextBlock)]
    if len(places) > 1:
        together = "".join(block.text for block in blocks if isinstance(block, TextBlock))
        return list(blocks) if together == text else None
    if not places and not text:
        return list(blocks)
    thought = (i for i, block in enumerate(blocks) if not isinstance(block, ThinkingBlock))
    at = places[0] if places else next(thought, len(blocks))
    return [*blocks[:at], TextBlock(text=text), *blocks[at + len(places) :]]


def _lost(items: Sequence[ChatResponse]) -> bool:
    """Whether an item held something that the last one does not hold."""
    last = items[-1].message
    kinds = {type(block) for block in last.blocks}
    held = {type(block) for item in items for block in item.message.blocks}
    called = any(calls_in(item.message.additional_kwargs) for item in items)
    calls = ToolCallBlock in kinds or bool(calls_in(last.additional_kwargs))
    return bool(held - kinds - {TextBlock}) or (called and not calls)


def _gathered(items: Sequence[Response]) -> dict[str, Any]:
    """All but the answer itself. The reason to stop need not be in the last item."""
    told = {name: value for item in items for name, value in item.additional_kwargs.items()}
    told.pop(_OF_AN_ITEM, None)
    reason = worst([reason for reason in map(ending_so_far, items) if reason is not None])
    return {
        "raw": None if reason is None else {"finish_reason": reason},
        "additional_kwargs": told,
        "logprobs": [one for item in items for one in item.logprobs or []] or None,
    }


def _texts(message: ChatMessage) -> list[str]:
    return [block.text for block in message.blocks if isinstance(block, TextBlock)]


CHAT: ModelCall[Question, ChatResponse, ChatResponse] = ModelCall(
    _chat, _achat, copy=lambda response: response, whole=lambda call, given: given[0]
)
CHAT_STREAM: ModelCall[Question, ChatResponse, ChatResponse] = ModelCall(
    _stream_chat, _astream_chat, copy=_kept_chat, whole=_whole_chat
)
COMPLETION: ModelCall[Question, CompletionResponse, CompletionResponse] = ModelCall(
    _complete, _acomplete, copy=lambda response: response, whole=lambda call, given: given[0]
)
COMPLETION_STREAM: ModelCall[Question, CompletionResponse, CompletionResponse] = ModelCall(
    _stream_complete, _astream_complete, copy=_kept_completion, whole=_whole_completion
)


def chat_items(answer: ChatResponse) -> Iterator[ChatResponse]:
    """`answer` bit by bit. The last item is `answer` itself, with all that is no text; the deltas
    add up to its texts.
    """
    told: list[ContentBlock] = []
    held: ChatResponse | None = None  # one item behind: the last one is given as the whole answer
    for block in answer.message.blocks:
        if not isinstance(block, TextBlock):
            continue
        so_far = ""
        for piece in pieces(block.text):
            if held is not None:
                yield held
            so_far += piece
            blocks = [*told, TextBlock(text=so_far)]
            message = ChatMessage(role=answer.message.role, blocks=blocks)
            held = ChatResponse(message=message, delta=piece, raw=answer.raw)
        told.append(block.model_copy())
    yield answer.model_copy(update={"delta": "" if held is None else held.delta})


def completion_items(answer: CompletionResponse) -> Iterator[CompletionResponse]:
    """See `chat_items`."""
    so_far = ""
    *earlier, last = pieces(answer.text) or [""]
    for piece in earlier:
        so_far += piece
        yield CompletionResponse(text=so_far, delta=piece, raw=answer.raw)
    yield answer.model_copy(update={"delta": last})
