"""Finds out who called the cache: the model, its call arguments and its config.

LangChain passes a cache two texts, which leave out what an answer depends on: the model itself
(langchain#14590, #25712), the call arguments of a text model (langchain#40403), and the config,
which names the tenant. All are in the frames of the call.
"""

import asyncio
import gc
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

from langchain_core.language_models import (
    BaseChatModel,
    BaseLanguageModel,
    BaseLLM,
    LanguageModelInput,
)
from langchain_core.load import dumps
from langchain_core.runnables import RunnableBinding, RunnableConfig
from langchain_core.runnables.config import merge_configs
from semcache_core import SemcacheError

_MOST_FRAMES = 40
_SUSPENDABLE = (CoroutineType, AsyncGeneratorType)
_ENTRIES = {"invoke", "ainvoke", "batch", "abatch", "stream", "astream"}
_GENERATE = {"generate", "agenerate"}
_NOT_PASSED = ("ls_structured_output_format", "structured_output_format")
"""Arguments for tracers, which LangChain takes out."""
_OF_CHAT = {"_generate_with_cache", "_agenerate_with_cache"}


@dataclass(frozen=True)
class Caller:
    """Who asks the cache, with which `arguments`. No text shows those of a text model; a chat
    model's, with `stop`, are in `llm_string`, but classes among them only by name.

    `configs` holds the config of the call, one for each prompt of a text model's batch; it is empty
    for a call without one, such as `generate`. `known` is False where the config may have been
    missed. `run` is the run manager of a chat model's call.
    """

    model: BaseLanguageModel[Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    configs: tuple[RunnableConfig, ...] = ()
    known: bool = True
    run: Any = None


def shown_to_cache(
    asked: LanguageModelInput,
    model: object,
    config: RunnableConfig | None,
    stop: list[str] | None,
    arguments: Mapping[str, Any],
) -> tuple[str, str, Caller]:
    """Return the two texts that LangChain passes to a cache in `model.invoke(asked)`, and who asks.

    Raises SemcacheError unless `model` is a chat or text model, as it is or with bound arguments.
    """
    given = dict(arguments)
    while isinstance(model, RunnableBinding):
        given = {**model.kwargs, **given}
        config = merge_configs(model.config, config)
        model = model.bound
    stop = given.pop("stop", None) if stop is None else stop
    for name in _NOT_PASSED:
        given.pop(name, None)
    configs = (RunnableConfig() if config is None else config,)
    if isinstance(model, BaseChatModel):
        # LangChain's own, done on the way to the cache; here, as it may move
        from langchain_core.language_models._utils import _normalize_messages

        messages = _normalize_messages(model._convert_input(asked).to_messages())
        llm_string = model._get_llm_string(stop=stop, **given)
        return dumps(messages), llm_string, Caller(model, {**given, "stop": stop}, configs)
    if isinstance(model, BaseLLM):
        parameters = {**getattr(model, "_dict_for_compat", model.dict)(), "stop": stop}
        llm_string = str(sorted(parameters.items()))
        return model._convert_input(asked).to_string(), llm_string, Caller(model, given, configs)
    raise SemcacheError(
        f"model must be a chat or text model of LangChain, got {model!r}; pass the model that "
        "asks, without the chain around it"
    )


def caller() -> Caller:
    """Return who called the function that calls this one."""
    model: BaseLanguageModel[Any] | None = None
    arguments: dict[str, Any] = {}
    run: Any = None
    last = ""
    for frame in _frames(sys._getframe(2)):
        last = frame.f_code.co_name
        if model is not None and last not in _ENTRIES and last not in _GENERATE:
            continue  # reading the variables of a frame is what takes time
        owner = frame.f_locals.get("self")
        if not isinstance(owner, BaseLanguageModel):
            continue
        model = model or owner
        if owner is model and last in (_GENERATE if isinstance(owner, BaseLLM) else _OF_CHAT):
            arguments = {**(frame.f_locals.get("kwargs") or {})}
            if not isinstance(owner, BaseLLM):
                arguments["stop"] = frame.f_locals.get("stop")
                run = frame.f_locals.get("run_manager")
        elif last in _ENTRIES:
            config = frame.f_locals.get("config")
            if not isinstance(config, list):
                config = [RunnableConfig() if config is None else config]
            return Caller(model, arguments, tuple(config), run=run)
    # the outermost frame is inside LangChain's own task: whatever awaits it was not found
    return Caller(model, arguments, known=not last.startswith("_agenerate"), run=run)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield `frame` and its callers, also across the tasks that a chat model starts for itself."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return
        yield frame
        if frame.f_code.co_name.startswith("_agenerate") and (task := _task_of(frame)) is not None:
            yield from _awaiting_frames(task)
            return
        frame = frame.f_back


def _task_of(frame: FrameType) -> "asyncio.Task[Any] | None":
    """Return the present task where `frame` is its first."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop here
        return None
    return task if task and getattr(task.get_coro(), "cr_frame", None) is frame else None


def _awaiting_frames(task: "asyncio.Task[Any]") -> list[FrameType]:
    """Return the frames, from the innermost on, of the task that awaits `task` in a `gather`. Empty
    where there is none.

    LangChain's `agenerate` makes a task for each prompt; only the callbacks of the tasks lead back.
    """
    for callback, _ in getattr(task, "_callbacks", None) or ():
        names = getattr(getattr(callback, "__code__", None), "co_freevars", ())
        if "outer" in names:
            gathered = callback.__closure__[names.index("outer")].cell_contents
            for wakeup, _ in getattr(gathered, "_callbacks", None) or ():
                if isinstance(waiting := getattr(wakeup, "__self__", None), asyncio.Task):
                    return list(_suspended_frames(waiting.get_coro()))[::-1]
    return []


def _suspended_frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, and of what it awaits, from the outermost on."""
    for _ in range(_MOST_FRAMES):
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            yield frame
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
        else:  # such as one step of an async generator, which shows nothing of itself
            inner = gc.get_referents(awaited)
            awaited = next((x for x in inner if isinstance(x, _SUSPENDABLE)), None)
        if awaited is None:
            return
