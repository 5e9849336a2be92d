"""Reads a LangChain call as a `Request`: its tenant, the asking model, question and scope."""

import json
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.load import dumps
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    set_config_context,
    var_child_runnable_config,
)
from semcache_core import (
    Explanation,
    Lookup,
    Request,
    SemanticCache,
    Splitter,
    adapters,
    check_namespace,
    digest,
)
from semcache_core.adapters import CallIds, Turn

from langchain_semcache.call_stack import Caller
from langchain_semcache.model_identity import (
    CallingModels,
    call_parts,
    hidden_objects,
    read_llm_string,
    with_schemas,
)
from langchain_semcache.serialization import without_kept_id

CONFIG_KEY = "semcache_namespace"
"""Where `config["configurable"]` names the tenant."""


def namespace_of_config() -> str:
    """Return the tenant in `config["configurable"]["semcache_namespace"]` of the present run.

    Empty when the config names none: then the cache's own namespace is used.
    """
    return namespace_in(ensure_config())


def namespace_in(config: Mapping[str, Any]) -> str:
    """Return the tenant that `config` names, or an empty text.

    Raises SemcacheError for a wrong type.
    """
    configured = config.get("configurable", {})
    if CONFIG_KEY not in configured:
        return ""
    check_namespace(configured[CONFIG_KEY])
    return str(configured[CONFIG_KEY])


MODE_KEY = "semcache"
"""Where `config["configurable"]` says "refresh" or "bypass", see `semcache_core.refreshing`."""

RunManager: TypeAlias = CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun


@dataclass
class CallConfig:
    """The config and the context of one call; and what the cache decided, once known.

    A stream may be read in another context than the caller's, such as by a web server when the
    endpoint has returned. The tenant is the one of the caller's context.
    """

    config: RunnableConfig
    context: Context = field(default_factory=copy_context)
    lookup: Lookup | None = None


@dataclass(frozen=True)
class Question:
    """What a chat model is asked: all that its answer may depend on. `run` is its callbacks'."""

    model: BaseChatModel
    messages: list[BaseMessage]
    stop: list[str] | None
    arguments: dict[str, Any]
    call: CallConfig | None = None
    run: RunManager | None = None


@dataclass(frozen=True)
class _Asking:
    """A digest of a model and its parameters, and of its fields those that no text shows."""

    digest: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class RequestReader:
    """Reads calls for one cache, so that the same call is the same request in every adapter.

    `split` finds the question inside a user text. `normalise_system` changes the system texts of
    the scope; the model still gets the original.
    """

    def __init__(
        self,
        cache: SemanticCache,
        split: Splitter,
        namespace: adapters.Namespace,
        normalise_system: adapters.Normaliser | None = None,
        writer: adapters.Writer = None,
    ) -> None:
        self._cache, self._split, self._namespace = cache, split, namespace
        self._normalise_system, self._writer = normalise_system, writer
        self._models = CallingModels()

    @property
    def namespace(self) -> str:
        """The tenant of the present call; raises SemcacheError where it is not a non-empty text."""
        if self._namespace is namespace_of_config:
            return namespace_of_config() or self._cache.settings.namespace
        return adapters.current_namespace(self._namespace, self._cache)

    def read(
        self,
        prompt: str,
        llm_string: str,
        model: BaseLanguageModel[Any] | None,
        arguments: Mapping[str, Any] | None = None,
    ) -> Request | None:
        """Return the request, None where this call could be confused with another one.

        `arguments` are those of the call that `llm_string` does not show.
        """
        asking = self._asking_model(llm_string, model)
        if asking is not None and arguments:
            asking = self._asking_with(asking, arguments)
        if asking is None:
            return None
        turn = self._read_prompt(prompt)
        if turn is None:
            self._warn_unstable("message")
            return None
        return Request(
            question=turn.question,
            scope=digest([asking.digest, turn.rest]),
            namespace=self.namespace,
            exact_only=turn.exact_only,
            writer=self._writer() if callable(self._writer) else self._writer,
            mode=_mode_of_config(),
            parts=partial(_parts, llm_string, model, asking.fields, arguments or {}, turn.rest),
            why_exact=turn.why_exact,
        )

    def read_call(self, prompt: str, llm_string: str, caller: Caller) -> Request | None:
        """See `read`; for a call that LangChain's `invoke` and its kin make, with its config."""
        model, hidden = caller.model, caller.arguments
        if isinstance(model, BaseChatModel):
            hidden = {}
            if caller.arguments and not read_llm_string(llm_string).stable:
                llm_string = model._get_llm_string(**with_schemas(dict(caller.arguments)))
        read = partial(self.read, prompt, llm_string, model, hidden)
        if caller.known and not any(map(_says_anything, caller.configs)):
            return read()  # without a context of its own, which takes as long as half of a lookup
        if not caller.known or not self._name_one_tenant(caller.configs):
            self._cache.warn_once(
                "unknown tenant",
                "which tenant a call is for cannot be found out, so it is not cached: its prompts "
                "are in one batch of a text model with those of other tenants, or something other "
                "than LangChain made it; ask for one tenant at a time",
            )
            return None
        with set_config_context(caller.configs[0]) as context:
            return context.run(read)

    def _name_one_tenant(self, configs: Sequence[RunnableConfig]) -> bool:
        """Whether all prompts of a text model's batch, which LangChain asks at once, have one."""
        if len(configs) == 1:
            return True
        namespaces = set()
        for config in configs:
            with set_config_context(config) as context:
                namespaces.add(context.run(lambda: self.namespace))
        return len(namespaces) == 1

    def read_question(self, question: Question) -> Request | None:
        """See `read`; the same call is the same request in `SemanticLLMCache`."""
        if question.call is None:
            return self._read_in_config(question)
        # a copy: the same call may be read on two threads, and no context is entered twice
        return question.call.context.copy().run(self._read_in_config, question)

    def hinted(self, explanation: Explanation, prompt: str) -> Explanation:
        """Return `explanation`, with a hint where a date in a system text may cause the miss."""
        turn = self._read_prompt(prompt)
        blocks = adapters.system_blocks(() if turn is None else turn.rest)
        return adapters.hinted(explanation, [block["text"] for block in blocks])

    def _read_in_config(self, question: Question) -> Request | None:
        model, arguments = question.model, question.arguments
        shown = with_schemas(arguments) if arguments else {}
        llm_string = model._get_llm_string(stop=question.stop, **shown)
        prompt = dumps(question.messages)
        if question.call is None:
            return self.read(prompt, llm_string, model)
        with set_config_context(question.call.config) as context:  # for a namespace function
            return context.run(self.read, prompt, llm_string, model)

    def _read_prompt(self, prompt: str) -> Turn | None:
        turn = read_prompt(prompt, self._split)
        if turn is not None and self._normalise_system is not None:
            adapters.normalise_systems(turn.rest, self._normalise_system)
        return turn

    def _asking_model(
        self, llm_string: str, model: BaseLanguageModel[Any] | None
    ) -> _Asking | None:
        """Return who asks, None where the model and its parameters are not known."""
        known = read_llm_string(llm_string)
        if not known.stable:
            self._warn_unstable("call argument")
            return None
        if model is None:
            return _Asking(known.digest) if known.named else None
        if known.whole:
            changed = self._models.changed(model, known)
            return _Asking(digest([known.digest, changed]) if changed else known.digest, changed)
        if not known.named:
            self._cache.warn_once(
                "unnamed " + type(model).__name__,
                f"{type(model).__name__} does not tell LangChain's cache which model it is; "
                "its fields are compared instead, so that two models never share an answer",
            )
        identity, fields = self._models.described(model)
        return _Asking(digest([known.digest, identity]), fields)

    def _asking_with(self, asking: _Asking, arguments: Mapping[str, Any]) -> _Asking | None:
        """Return `asking` with the call arguments of a text model, None where these are unclear."""
        shown = read_llm_string(str(sorted(with_schemas(dict(arguments)).items())))
        if not shown.stable:
            self._warn_unstable("call argument")
            return None
        return _Asking(digest([asking.digest, shown.digest]), asking.fields)

    def _warn_unstable(self, what: str) -> None:
        self._cache.warn_once(
            f"unstable {what}",
            f"a {what} shows only a class name or an address to the cache, so its fields could "
            "change unseen; calls with it are not cached. With with_structured_output, "
            "method='function_calling' shows the schema.",
        )


def _parts(
    llm_string: str,
    model: BaseLanguageModel[Any] | None,
    fields: Mapping[str, Any],
    arguments: Mapping[str, Any],
    rest: Any,
) -> dict[str, Any]:
    """Return the parts of a scope by name."""
    return {**call_parts(llm_string, model, fields, arguments), **adapters.parts_of(rest)}


def _mode_of_config() -> Any:
    """Return `config["configurable"]["semcache"]` of the present run; `Request` checks it."""
    config = var_child_runnable_config.get() or {}
    return config.get("configurable", {}).get(MODE_KEY, "normal")


def _says_anything(config: RunnableConfig) -> bool:
    return bool(config.get("configurable") or config.get("metadata") or config.get("tags"))


# -- messages in canonical form --------------------------------------------------------------------

# Fields that differ between two runs of the same conversation, although the question is the same.
_VOLATILE = {
    *("id", "response_metadata", "usage_metadata", "artifact", "example"),
    *("tool_call_chunks", "chunk_position"),
}
# Likewise in an answer's additional_kwargs. All others there may reach the provider again.
_VOLATILE_EXTRA = {
    *("__gemini_function_call_thought_signatures__", "__openai_function_call_ids__"),
    *("finish_reason", "generation_id", "logprobs", "model_id", "model_name", "parsed"),
    *("stop_reason", "token_count", "token_usage", "usage"),
}
_TEXT_BLOCKS = {"text", "output_text", "reasoning", "thinking", "redacted_thinking"}
_CALLS = ("tool_calls", "invalid_tool_calls")
_CALL_BLOCKS = {
    *("tool_use", "tool_call", "tool_result", "function_call", "function_call_output"),
    *("server_tool_call", "server_tool_result", "server_tool_use"),
}


def read_prompt(prompt: str, split: Splitter) -> Turn | None:
    """Read a chat model's serialised messages (see `read_turn`), or a text model's prompt.

    None when an object in a message shows only its class or address, not its fields.
    """
    messages = _parse(prompt)
    if messages is None:
        return adapters.read_text(prompt, split)
    ids = CallIds()
    canonical = [_message(message, ids) for message in messages]
    if '"not_implemented"' in prompt and any(hidden_objects(canonical)):
        return None
    return adapters.read_turn(canonical, split)


def _parse(prompt: str) -> list[dict[str, Any]] | None:
    """Return the message constructors in `prompt`, None when it is plain text.

    They are read as data: no object is constructed, so nothing in a prompt can be executed.
    """
    if not prompt.startswith("["):
        return None
    try:
        messages = json.loads(prompt)
    except (ValueError, RecursionError):
        return None
    if not isinstance(messages, list) or not messages:
        return None
    return messages if all(map(_is_message, messages)) else None


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.get("type") == "constructor"
        and isinstance(message.get("id"), list)
        and isinstance(message.get("kwargs"), dict)
    )


def _message(message: dict[str, Any], ids: CallIds) -> dict[str, Any]:
    """Return one message without its volatile fields."""
    fields = {k: v for k, v in message["kwargs"].items() if k not in _VOLATILE}
    name = str(message["id"][-1]) if message["id"] else ""
    kind = str(fields.get("type") or name).removesuffix("MessageChunk").lower()
    extra = fields.get("additional_kwargs")
    if kind == "ai" and isinstance(extra, dict):
        repeated = _CALLS if any(fields.get(calls) for calls in _CALLS) else ()
        fields["additional_kwargs"] = {
            k: v
            for k, v in extra.items()
            if v is not None and k not in _VOLATILE_EXTRA and k not in repeated
        }
    for calls in _CALLS:
        if isinstance(fields.get(calls), list):
            fields[calls] = [ids.renumber(call) for call in fields[calls]]
    if "tool_call_id" in fields:
        fields = ids.renumber(fields)
    content = _content(fields.get("content"), kind, ids)
    stated = {k: v for k, v in fields.items() if v not in (None, [], {})}
    return stated | {"type": kind, "content": content}


def _content(content: Any, kind: str, ids: CallIds) -> Any:
    """Return a list of blocks, so that "hi" and [{"type": "text", "text": "hi"}] are equal."""
    if isinstance(content, str):
        content = [content] if content else []
    if not isinstance(content, list):
        return content
    return [_block(block, kind, ids) for block in content]


def _block(block: Any, kind: str, ids: CallIds) -> Any:
    if isinstance(block, str):
        return {"type": "text", "text": block}
    if not isinstance(block, dict):
        return block
    what = str(block.get("type"))
    if what in _CALL_BLOCKS:
        block = without_kept_id(block)  # as in a hit, whose conversation is the same one
        return ids.renumber({k: v for k, v in block.items() if k != "index"})
    # LangChain gives a block a new "lc_..." id each time it is made; a provider's own may be a
    # reference to an image or a file.
    new_each_time = what in _TEXT_BLOCKS or str(block.get("id")).startswith("lc_")
    volatile = [*(["id"] if new_each_time else []), *(["index"] if kind == "ai" else [])]
    return {k: v for k, v in block.items() if k not in volatile}
