"""A stored answer as the items of a stream, as a model would have given it."""

from collections.abc import Iterator

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    TextBlock,
)
from semcache_core.adapters import pieces


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
