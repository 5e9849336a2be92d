"""SemanticCacheMiddleware: a semantic cache around the model calls of a LangChain agent."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from semcache_core import (
    CacheStats,
    Explanation,
    Request,
    SemanticCache,
    SemcacheError,
    SharedOptions,
    Splitter,
    adapters,
    digest,
    split_question,
)
from typing_extensions import Unpack

from langchain_semcache.cache import SemanticLLMCache
from langchain_semcache.request import RequestReader, namespace_of_config
from langchain_semcache.serialization import EVENT

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ImportError as error:
    raise SemcacheError(
        f"SemanticCacheMiddleware needs langchain's agents ({error}); "
        'run: pip install "semcache-core[agents]"'
    ) from error

from langchain_semcache import agent_answers
from langchain_semcache.agent_answers import Answer, AnswerCodec, Step

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

Response: TypeAlias = ModelResponse[Any]
Call: TypeAlias = Callable[[ModelRequest[Any]], Response]
AsyncCall: TypeAlias = Callable[[ModelRequest[Any]], Awaitable[Response]]


class SemanticCacheMiddleware(AgentMiddleware[Any, Any, Any]):
    """For `create_agent(..., middleware=[..., SemanticCacheMiddleware()])`: put it last.

    Takes the keyword arguments of `SemanticLLMCache`. The first model call of a human turn may be
    served by meaning. Once a message follows the last human one, only the same conversation is
    served. An answer that calls tools is also served to the same conversation only, with fresh call
    ids: the tools run each time.

    All that the model sees must be equal: model, parameters, system prompt, earlier messages, the
    schemas of tools and response format. Other state is not compared. `uncached_tools` names tools
    whose results differ from call to call: nothing after a call of one is cached, in that turn and
    in later ones that still show it. `normalise_system` removes from the system prompt, for the
    comparison only, what may differ, such as a date.

    Identical calls at the same time are one call of the model. A hit that is audited is served at
    once, and the model is asked in the background (`audit_rate`).

    Middleware after this one could change the request unseen. Then the model is given the cache as
    its own, and asks it with the request that reaches it: a model with a `cache` already, and any
    with `uncached_tools`, is not cached. An error of the cache is a miss, counted in
    `stats().failures`. An error of the model is passed on.
    """

    def __init__(
        self,
        *,
        cache: SemanticCache | None = None,
        split: Splitter = split_question,
        namespace: adapters.Namespace = namespace_of_config,
        uncached_tools: Sequence[str] = (),
        normalise_system: adapters.Normaliser | None = None,
        writer: adapters.Writer = None,
        embedder: object | None = None,
        chroma_client: "ClientAPI | None" = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__()
        adapters.check_given(namespace)
        adapters.check_writer(writer)
        self._uncached_tools = tuple(uncached_tools)
        self._uncached = adapters.UncachedTools(uncached_tools)
        self.cache = adapters.open_cache(cache, embedder, chroma_client, options)
        self._tenant_by_config = namespace is namespace_of_config
        self._reader = RequestReader(self.cache, split, namespace, normalise_system, writer)
        self._of_model = SemanticLLMCache(
            cache=self.cache,
            split=split,
            namespace=namespace,
            normalise_system=normalise_system,
            writer=writer,
        )
        self._call = adapters.ModelCall(
            agent_answers.ask, agent_answers.aask, copy=lambda response: response, whole=self._whole
        )
        self._calls: adapters.CachedCalls[Step, Answer] = adapters.CachedCalls(
            self.cache,
            lambda step: self._read(step.request),
            lambda step: AnswerCodec(step.request.response_format),
            agent_answers.unobserved_step,
            lambda _, answer: answer.usage,
        )

    def wrap_model_call(self, request: ModelRequest[Any], handler: Call) -> Response:
        """Return the stored answer to this step of the agent, else the model's."""
        if _is_blind(handler):
            adapters.set_last_hit(None)
            return handler(self._cached_by_model(request))
        pending = self._calls.ask(Step(request, handler))
        given = list(self._calls.items(pending, self._call))
        if pending.hit is not None:
            with self.cache.failing_open("announce"), suppress(RuntimeError):  # outside of any run
                dispatch_custom_event(EVENT, adapters.described(pending.hit))
        return given[0] if pending.answer is None else pending.answer.response

    async def awrap_model_call(self, request: ModelRequest[Any], handler: AsyncCall) -> Response:
        if self._lacks_config():
            adapters.set_last_lookup(adapters.NOT_CACHED)
            return await handler(request)
        if _is_blind(handler):
            adapters.set_last_hit(None)
            return await handler(self._cached_by_model(request))
        pending = await self._calls.aask(Step(request, handler))
        given = [response async for response in self._calls.aitems(pending, self._call)]
        if pending.hit is not None:
            with self.cache.failing_open("announce"), suppress(RuntimeError):
                await adispatch_custom_event(EVENT, adapters.described(pending.hit))
        return given[0] if pending.answer is None else pending.answer.response

    def explain(self, request: ModelRequest[Any]) -> Explanation:
        """Why this call would hit or miss. Raises SemcacheError where it is not cached at all.

        Call it inside the agent's run, such as in a hook of a middleware, where the run's config
        names the tenant, or where the agent has a name, which is part of the call too.
        """
        asked = self._read(request)
        if asked is None:
            raise SemcacheError(
                "this call is not cached: it follows a call of one of uncached_tools, or its model "
                f"({type(request.model).__name__}) or a message cannot be told from another one"
            )
        return self._reader.hinted(self.cache.explain(asked), _prompt(request))

    def stats(self) -> CacheStats:
        """Counts since this process opened the cache."""
        return self.cache.stats()

    # -- helpers -----------------------------------------------------------------------------------

    def _whole(self, step: Step, given: Sequence[Response]) -> Answer | None:
        """Return the model's answer; None for one that must not be repeated."""
        [response] = given
        if self._uncached.among(agent_answers.tools_run_inside(response.result)):
            return None
        request = step.request
        arguments = {**request.model_settings, "tool_choice": request.tool_choice}
        demands = adapters.demands_of(request.model, arguments)
        text = agent_answers.dump_answer(response, request.response_format, demands)
        return None if text is None else Answer(response, text)

    def _read(self, request: ModelRequest[Any]) -> Request | None:
        """Return the request, None when this call is not cached."""
        model = request.model
        if not isinstance(model, BaseChatModel):
            self.cache.warn_once(
                "no chat model",
                f"the agent's model is a {type(model).__name__} and no chat model, so what it asks "
                "cannot be seen; its calls are not cached",
            )
            return None
        if self._uncached.among(agent_answers.tools_called_in(request.messages)):
            return None
        llm_string = model._get_llm_string(**request.model_settings)
        asked = self._reader.read(_prompt(request), llm_string, model)
        if asked is None:
            return None
        parts = {
            "tools": agent_answers.describe_tools(request.tools),
            "tool choice": agent_answers.describe_choice(request.tool_choice),
            "response format": agent_answers.describe_format(request.response_format),
            # it signs the answer
            "agent": ensure_config().get("metadata", {}).get("lc_agent_name"),
        }
        inner = asked.parts
        return replace(
            asked,
            scope=digest(["agent", asked.scope, *parts.values()]),
            parts=lambda: {**(inner() if inner else {}), **parts},
        )

    def _cached_by_model(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Return `request` with a copy of its model that asks this cache itself.

        A copy keeps the class of the model, for which middleware such as that of Anthropic's prompt
        caching asks. A `CachedChatModel` in its place would not.
        """
        model = request.model
        own = getattr(model, "cache", None)  # False says that nothing is to be cached
        if isinstance(model, BaseChatModel) and own is None and not self._uncached_tools:
            return request.override(model=model.model_copy(update={"cache": self._of_model}))
        self.cache.warn_once(
            "not last",
            "nothing is cached by SemanticCacheMiddleware: other middleware that wraps model calls "
            "follows and could change the request unseen, and the model cannot be given the cache, "
            "as it has one of its own or there are uncached_tools; put SemanticCacheMiddleware "
            "last in middleware=[...]",
        )
        return request

    def _lacks_config(self) -> bool:
        """Whether the config with the tenant is hidden: in async code before Python 3.11."""
        if not self._tenant_by_config or sys.version_info >= (3, 11):
            return False
        if var_child_runnable_config.get() is not None:
            return False
        self.cache.warn_once(
            "no config",
            "nothing is cached in async agents: before Python 3.11 the run's config, which names "
            'the tenant, cannot be seen; pass namespace="..." or a callable',
        )
        return True


def _is_blind(handler: Call | AsyncCall) -> bool:
    """Whether other middleware follows, which could change the request unseen."""
    by_langchain = getattr(handler, "__module__", None) == "langchain.agents.factory"
    return by_langchain and not handler.__name__.startswith("_execute_model")


def _prompt(request: ModelRequest[Any]) -> str:
    """Return the whole conversation, as LangChain shows it to a cache."""
    system = [] if request.system_message is None else [request.system_message]
    messages: list[BaseMessage] = [*system, *request.messages]
    return dumps(messages)
