"""What an LLM is asked: the one record that everything about a call is read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms.llm import LLM
from semcache_core import Explanation, Request, SemanticCache, SemcacheError, Split, digest
from semcache_core.adapters import (
    Namespace,
    Normaliser,
    Turn,
    UncachedTools,
    Writer,
    current_namespace,
    current_writer,
    hinted,
    normalise_systems,
    read_text,
    read_turn,
    system_blocks,
)

from llamaindex_semcache.documents import Found, Sources, holds_nodes, without_nodes
from llamaindex_semcache.messages import canonical, texts, tool_names
from llamaindex_semcache.model_identity import Models, describe_arguments, describe_class
from llamaindex_semcache.templates import Templates

How: TypeAlias = Literal["chat", "completion", "structured"]


@dataclass(frozen=True)
class Question:
    """What an LLM is asked: all that its answer may depend on."""

    llm: LLM
    """The model inside CachedLLM."""

    messages: tuple[ChatMessage, ...] = ()
    """Of a chat, or of a structured prediction."""

    prompt: str | None = None
    """Of a completion; then there are no messages."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the call, tools among them."""

    output: type[BaseModel] | None = None
    """The class that a structured prediction asks for."""

    how: How = "chat"


Context: TypeAlias = Literal["nodes", "text", "ignore"] | None
"""What of the documents in a prompt must be equal: which nodes they are, the text with all its
order, or nothing. None is "nodes"; what was not recorded counts as text.
"""


class RequestReader:
    """Reads calls for one cache, so that the same call is the same request whoever makes it."""

    def __init__(
        self,
        cache: SemanticCache,
        namespace: Namespace,
        writer: Writer,
        normalise_system: Normaliser | None,
        context: Context,
        sources: Sources,
        templates: Templates,
        uncached_tools: UncachedTools,
    ) -> None:
        """Raises SemcacheError for a `context` that there is not."""
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
        """The tenant of the present call."""
        return current_namespace(self._namespace, self._cache)

    def read(self, call: Question) -> Request | None:
        """None when this call cannot be told from another one, or must not be cached."""
        try:
            messages = canonical(call.messages)
            asking = [call.how, *self._asking(call)]
        except SemcacheError as error:
            self._cache.warn_once(f"unclear {error}", str(error))
            return None
        if self._uncached_tools.among(tool_names(messages)):
            return None
        documents = _Documents(self._sources, self._templates, self._context)
        turn = self._turn(call, messages, documents)
        if turn is None:
            return None
        return Request(
            question=turn.question,
            scope=digest([*asking, turn.rest]),
            namespace=self.namespace,
            exact_only=turn.exact_only,
            tags=documents.tags(call),
            writer=current_writer(self._writer),
        )

    def hinted(self, explanation: Explanation, call: Question) -> Explanation:
        """`explanation`, with a hint where a date in a system text may be why nothing is found."""
        try:
            messages = canonical(call.messages)
            normalise_systems(messages, self._normalise_system)
        except SemcacheError:
            return explanation
        return hinted(explanation, [block["text"] for block in system_blocks(messages)])

    def _asking(self, call: Question) -> list[Any]:
        output = None if call.output is None else describe_class(call.output)
        return [self._models.identify(call.llm), describe_arguments(call.arguments), output]

    def _turn(
        self, call: Question, messages: list[dict[str, Any]], documents: "_Documents"
    ) -> Turn | None:
        if call.prompt is not None:
            return read_text(call.prompt, documents.split)
        if not messages:
            return None
        normalise_systems(messages, self._normalise_system)
        for block in system_blocks(messages):
            frame = documents.framed(block["text"])
            if frame != block["text"]:  # a text with the same signs in it is not the same
                block |= {"text": frame, "framed": True}
        return read_turn(messages, documents.split)


class _Documents:
    """The documents of one call: what of them is compared, and the tags of the answer."""

    def __init__(self, sources: Sources, templates: Templates, context: Context) -> None:
        self._sources, self._templates, self._context = sources, templates, context
        self._found: dict[str, Found] = {}

    def tags(self, call: Question) -> tuple[str, ...]:
        """Of all nodes that the model is shown anything of."""
        shown = [*texts(call.messages), *([] if call.prompt is None else [call.prompt])]
        return tuple(sorted({tag for text in shown for tag in self._find(text).tags}))

    def split(self, text: str) -> Split | None:
        """The question of a user text, and its frame with the nodes as they are compared.

        Nodes are marked first, for they may hold a template's words or questions of their own; not
        in the question, which may be the very text of a node that answers it.
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
        """A system text as it is compared: chat engines put their documents there."""
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
