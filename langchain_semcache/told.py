"""A chat model whose `_generate` and `_stream` are told of the config that a call was given.

LangChain tells them of the run's callbacks at most, so it is handed down as an argument of the
call. A context variable would not do: a stream's steps may run in one context after another.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7
from semcache_core import Hit
from semcache_core.adapters import note

from langchain_semcache.delegating import OWN_ARGUMENT, Delegating


@dataclass
class Call:
    """What one call was told, and in which context; and the hit that answered it, once known.

    A stream may be read in another context than it was asked for in, such as by a web server when
    the endpoint has returned: the tenant is that of the asker.
    """

    config: RunnableConfig
    context: Context = field(default_factory=copy_context)
    hit: Hit | None = None


def call_of(config: RunnableConfig | None, kwargs: Mapping[str, Any]) -> Call:
    """A new one, or the one among `kwargs`. It names the run, so that its handlers know it."""
    if OWN_ARGUMENT in kwargs:
        call: Call = kwargs[OWN_ARGUMENT]
        return call
    told = ensure_config(config)
    return Call({**told, "run_id": told.get("run_id") or uuid7()})


def _telling(config: RunnableConfig | None, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """The call, and the arguments that hand it down."""
    call = call_of(config, kwargs)
    return call, {**kwargs, OWN_ARGUMENT: call}


class ToldOfCalls(Delegating):
    """Passes a `Call` down as the argument `semcache_call`."""

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        call, told = _telling(config, kwargs)
        return super().invoke(input, call.config, stop=stop, **told)

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        call, told = _telling(config, kwargs)
        try:
            return await super().ainvoke(input, call.config, stop=stop, **told)
        finally:
            note(call.hit)  # LangChain asks in a task of its own

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        call, told = _telling(config, kwargs)
        return super().stream(input, call.config, stop=stop, **told)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        call, told = _telling(config, kwargs)
        return super().astream(input, call.config, stop=stop, **told)

    def stream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":  # the others are made from `stream`
            call, kwargs = _telling(config, kwargs)
            config = call.config
        return super().stream_events(input, config, version=version, **kwargs)

    def astream_events(
        self, input: Any, config: Any = None, *, version: Any = "v2", **kwargs: Any
    ) -> Any:
        if version == "v3":
            call, kwargs = _telling(config, kwargs)
            config = call.config
        return super().astream_events(input, config, version=version, **kwargs)
