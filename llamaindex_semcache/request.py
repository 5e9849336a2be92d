"""Reads a LlamaIndex call as a `Request`: question, scope, tenant and the tags of documents."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.llm import LLM
from semcache_core import (
    Explanation,
    Request,
    SemanticCache,
    SemcacheError,
    Split,
    adapters,
    digest,
)

from llamaindex_semcache.documents import Found, Sources, holds_nodes, without_nodes
from llamaindex_semcache.messages import canonical, texts, tool_names
from llamaindex_semcache.model_identity import (
    Models,
    describe_arguments,
    describe_class,
    model_parts,
)
from llamaindex_semcache.templates import Templates

How: TypeAlias = Literal["chat", "completion", "structured"]


@dataclass(frozen=True)
class Question:
    """What an LLM is asked: all that its answer may depend on."""

    llm: LLM
    """The model inside CachedLLM."""

    messages: tuple[ChatMessage, ...] = ()
    """The messages of a chat or a structured prediction."""

    prompt: str | None = None
    """The prompt of a completion, which has no messages."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The keyword arguments of the call, with its tools."""

    output: type[BaseModel] | None = None
    """The class of a structured prediction."""

    how: How = "chat"

    parse: Callable[[str], object] | None = None
    """What reads the answer's text in the app. It raises for one of no use, which is not stored."""


Context: TypeAlias = Literal["nodes", "text", "ignore"] | None
"""What of the documents in a prompt must be equal: the set of nodes, the text, or nothing. None is
"nodes"; documents that were not recorded count as text.
"""


class RequestReader:
    """Reads calls for one cache, so that the same call is always the same request."""

    def __init__(
        self,
        cache: SemanticCache,
        namespace: adapters.Namespace,
        writer: adapters.Writer,
        normalise_system: adapters.Normaliser | None,
        context: Context,
        sources: Sources,
        templates: Templates,
        uncached_tools: adapters.UncachedTools,
    ) -> None:
        """Raises SemcacheError for an unknown `context`."""
        if context not in (None, "nodes", "text", "ignore"):
            raise SemcacheError(
                f'context must be "nodes", "text", "ignore" or None, got {context!r}; '
                "leave it out where the documents must be equal"
            )
        self._cache, self._namespace, self._writer = cache, namespace, writer
        self._normalise_system, self._context = normalise_system, context
        self._sources, self._templates = sources, templates
        self._uncached_tools, self._models = uncached_tools, Models()

    @property
    def namespace(self) -> str:
        return adapters.current_namespace(self._namespace, self._cache)

    def read(self, question: Question) -> Request | None:
        """Return the request; None where the call must not be cached or cannot be identified."""
        try:
            messages = canonical(question.messages)
            model = self._models.described(question.llm)
            arguments = describe_arguments(question.arguments)
            output = None if question.output is None else describe_class(question.output)
        except SemcacheError as error:
            self._cache.warn_once(f"unclear {error}", str(error))
            return None
        if self._uncached_tools.among(tool_names(messages)):
            return None
        if getattr(question.llm, "track_previous_responses", False) is True:
            return None  # OpenAIResponses: the answer depends on a conversation at the provider
        documents = _Documents(self._sources, self._templates, self._context)
        turn = self._turn(question, messages, documents)
        if turn is None:
            return None
        return Request(
            question=turn.question,
            scope=digest([question.how, digest(list(model)), arguments, output, turn.rest]),
            namespace=self.namespace,
            exact_only=turn.exact_only,
            tags=documents.tags(question),
            writer=self._writer() if callable(self._writer) else self._writer,
            parts=partial(_parts, question, model, arguments, output, turn.rest),
            why_exact=turn.why_exact,
        )

    def hinted(self, explanation: Explanation, question: Question) -> Explanation:
        """Return `explanation`, with a hint where a date in a system text may cause the miss."""
        try:
            messages = canonical(question.messages)
            adapters.normalise_systems(messages, self._normalise_system)
        except SemcacheError:
            return explanation
        system_texts = [block["text"] for block in adapters.system_blocks(messages)]
        return adapters.hinted(explanation, system_texts)

    def _turn(
        self, question: Question, messages: list[dict[str, Any]], documents: "_Documents"
    ) -> adapters.Turn | None:
        if question.prompt is not None:
            return adapters.read_text(question.prompt, documents.split)
        if not messages:
            return None
        if self._normalise_system is not None:
            adapters.normalise_systems(messages, self._normalise_system)
        for block in adapters.system_blocks(messages):
            frame = documents.framed(block["text"])
            if frame != block["text"]:  # unlike a text that holds the same signs
                block |= {"text": frame, "framed": True}
        return adapters.read_turn(messages, documents.split)


def _parts(
    question: Question,
    model: tuple[str, dict[str, Any]],
    arguments: dict[str, Any],
    output: Any,
    rest: Any,
) -> dict[str, Any]:
    """Return the parts of a scope by name."""
    return {
        "kind of call": question.how,
        "output class": output,
        **model_parts(question.llm, model),
        **arguments,
        **adapters.parts_of(rest),
    }


class _Documents:
    """The documents of one call: how they are compared, and the tags of the answer."""

    def __init__(self, sources: Sources, templates: Templates, context: Context) -> None:
        self._sources, self._templates, self._context = sources, templates, context
        self._found: dict[str, Found] = {}

    def tags(self, question: Question) -> tuple[str, ...]:
        """Return the tags of all nodes that the model sees, whole or in part."""
        shown = [*texts(question.messages), *([] if question.prompt is None else [question.prompt])]
        return tuple(sorted({tag for text in shown for tag in self._find(text).tags}))

    def split(self, text: str) -> Split | None:
        """Split a user text into its question and its frame, with nodes as they are compared.

        Nodes are marked first, as they may hold a template's words or questions. The question is
        not marked: it may equal the text of a node.
        """
        if "\x00" in text:  # it could hold a mark itself
            return None
        ignoring = self._context == "ignore" and not self._templates.chooses(text)
        marked = text if self._context == "text" else self._find(text).frame
        split = self._templates.split(marked, ignoring)
        if split is not None and holds_nodes(split.question):
            split = self._templates.split(text, ignoring)
        if split is None or not ignoring:
            return split
        return Split(split.question, without_nodes(split.frame))

    def framed(self, system_text: str) -> str:
        """Return a system text as it is compared: chat engines put documents there."""
        if "\x00" in system_text or self._context == "text":
            return system_text
        frame = self._find(system_text).frame
        if self._context == "ignore":
            return without_nodes(self._templates.without_context(frame))
        return frame

    def _find(self, text: str) -> Found:
        if text not in self._found:
            self._found[text] = self._sources.find(text)
        return self._found[text]
