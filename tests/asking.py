"""Every way in which an app may ask a LangChain chat model, as one function each."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk


def streamed(model: Any, asked: Any, **told: Any) -> AIMessageChunk:
    first, *others = model.stream(asked, **told)
    return first + others if others else first


async def astreamed(model: Any, asked: Any, **told: Any) -> AIMessageChunk:
    first, *others = [chunk async for chunk in model.astream(asked, **told)]
    return first + others if others else first


async def from_events(model: Any, asked: Any, **told: Any) -> AIMessageChunk:
    events = [event async for event in model.astream_events(asked, version="v2", **told)]
    chunks = [e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"]
    return chunks[0] + chunks[1:]


async def from_v3(model: Any, asked: Any, **told: Any) -> AIMessage:
    stream = await model.astream_events(asked, version="v3", **told)
    answer = await stream.output
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)  # LangChain's, that still tells the handlers of the end
    return answer


WAYS: dict[str, Callable[..., AIMessage]] = {
    "invoke": lambda model, asked, **told: model.invoke(asked, **told),
    "ainvoke": lambda model, asked, **told: asyncio.run(model.ainvoke(asked, **told)),
    "batch": lambda model, asked, **told: model.batch([asked], **told)[0],
    "abatch": lambda model, asked, **told: asyncio.run(model.abatch([asked], **told))[0],
    "stream": streamed,
    "astream": lambda model, asked, **told: asyncio.run(astreamed(model, asked, **told)),
    "astream_events": lambda model, asked, **told: asyncio.run(from_events(model, asked, **told)),
    "stream_events": lambda model, asked, **told: (
        model.stream_events(asked, version="v3", **told).output
    ),
    "astream_events v3": lambda model, asked, **told: asyncio.run(from_v3(model, asked, **told)),
}
every_way = pytest.mark.parametrize("way", WAYS)
