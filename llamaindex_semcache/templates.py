"""The question in a text that LlamaIndex made from a prompt template."""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llama_index.core.base.llms.types import TextBlock
from llama_index.core.chat_engine import condense_plus_context, condense_question
from llama_index.core.prompts import (
    BasePromptTemplate,
    ChatPromptTemplate,
    PromptTemplate,
    PromptType,
    RichPromptTemplate,
    SelectorPromptTemplate,
    chat_prompts,
    default_prompts,
)
from semcache_core import Split, Splitter

_QUESTIONS = {"query_str", "question", "query"}
_DOCUMENTS = {"context_str", "context_msg", "context"}
# The answer is the number of a document, which is meaningless with other documents.
_CHOOSING = {
    *(PromptType.CHOICE_SELECT, PromptType.MULTI_SELECT, PromptType.RANKGPT_RERANK),
    *(PromptType.SINGLE_SELECT, PromptType.TREE_SELECT, PromptType.TREE_SELECT_MULTIPLE),
}
_VARIABLE = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*(?:\.[a-zA-Z_][a-zA-Z0-9_]*)*)\}")
_RICH_VARIABLE = re.compile(r"\{\{\s*([a-zA-Z_]\w*)\s*\}\}")
# From the first loop or condition to the end of the last one.
_RICH_BLOCKS = re.compile(r"\s*\{%.*%\}\s*", re.DOTALL)
_RICH_MESSAGE = re.compile(r"\{%-?\s*chat\s[^%]*%\}(.*?)\{%-?\s*endchat\s*-?%\}", re.DOTALL)
_QUESTION, _CONTEXT = "\x00question\x00", "\x00context\x00"
_MOST = 256  # templates that are kept: an app may make one for each call


@dataclass(frozen=True)
class _Shape:
    """A template: literal texts with a variable between each two of them."""

    literals: tuple[str, ...]
    variables: tuple[str, ...]
    chooses: bool

    @property
    def words(self) -> str:
        """The words of every text made from it."""
        return "".join(self.literals)

    def asks(self) -> bool:
        return not _QUESTIONS.isdisjoint(self.variables)

    def fits(self, text: str) -> bool:
        return self._earliest(text) is not None

    def values(self, text: str) -> list[str] | None:
        """Return the variables' parts of `text`; None unless it fits in exactly one way.

        Each literal is searched as early and as late as possible. Where both searches find the same
        places there is one way; else a variable's part holds the template's words.
        """
        places = self._earliest(text)
        if places is None or places != self._latest(text):
            return None
        starts = [start + len(words) for start, words in zip(places, self.literals, strict=True)]
        return [text[a:b] for a, b in zip(starts, places[1:], strict=False)]

    def filled(self, values: Sequence[str], shown: Mapping[str, str]) -> str:
        """Return the text with these parts, except for the variables in `shown`."""
        parts = [self.literals[0]]
        for name, value, words in zip(self.variables, values, self.literals[1:], strict=True):
            parts += [shown.get(name, value), words]
        return "".join(parts)

    def _earliest(self, text: str) -> list[int] | None:
        first, *middle, last = self.literals
        end = len(text) - len(last)
        if not text.startswith(first) or not text.endswith(last):
            return None
        places, at = [0], len(first)
        for words in middle:
            found = text.find(words, at, end)
            if found < 0:
                return None
            places.append(found)
            at = found + len(words)
        return [*places, end] if at <= end else None

    def _latest(self, text: str) -> list[int]:
        """Return the latest places, for a text that fits."""
        first, *middle, last = self.literals
        at = len(text) - len(last)
        places = [at]
        for words in reversed(middle):
            at = text.rfind(words, len(first), at)
            places.append(at)
        return [0, *reversed(places)]


class Templates:
    """A splitter that knows LlamaIndex's own templates, and those that `know` was given.

    Of several templates that a text fits, the one with most words counts. The question is the part
    of the variable `query_str`, `question` or `query`. It is split by `fallback` too, so that it
    cannot hold documents of its own. A text is matched only exactly if it fits its template in more
    than one way, such as one with a document that holds the template's words, or if the template
    has documents and no question, such as an extractor's. `fallback` splits a text of no template.
    """

    def __init__(self, fallback: Splitter) -> None:
        self._fallback = fallback
        self._lock = threading.Lock()
        self._own = frozenset(shape for prompt in _own_templates() for shape in _shapes(prompt))
        self._shown: dict[_Shape, None] = {}
        self._sorted = tuple(sorted(self._own, key=_most_words_first))

    def __call__(self, text: str) -> Split | None:
        return self.split(text)

    def know(self, prompt: BasePromptTemplate) -> None:
        """Find questions in texts made from `prompt` too; the last 256 templates are kept."""
        with self._lock:
            new = [s for s in _shapes(prompt) if s not in self._own and s not in self._shown]
            if not new:
                return
            self._shown.update(dict.fromkeys(new))
            for shape in [*self._shown][:-_MOST]:
                del self._shown[shape]
            self._sorted = tuple(sorted((*self._own, *self._shown), key=_most_words_first))

    def split(self, text: str, ignore_context: bool = False) -> Split | None:
        """Split a user text; with `ignore_context` the frame has no documents."""
        text = text.strip()
        shape = _first(text, self._sorted)
        if shape is None:
            return self._fallback(text)
        values = shape.values(text) if shape.asks() else None
        if values is None:
            return None
        named = zip(shape.variables, values, strict=True)
        questions = {value.strip() for name, value in named if name in _QUESTIONS}
        asked = self._fallback(questions.pop()) if len(questions) == 1 else None
        if asked is None or not asked.question:
            return None
        shown = dict.fromkeys(_QUESTIONS, asked.frame or _QUESTION)
        if ignore_context and not shape.chooses:
            shown |= dict.fromkeys(_DOCUMENTS, _CONTEXT)
        return Split(asked.question, shape.filled(values, shown))

    def without_context(self, text: str) -> str:
        """Return a text without a question, such as a system text, without its documents."""
        shape = _first(text.strip(), (s for s in self._sorted if not s.asks()))
        values = shape.values(text.strip()) if shape else None
        if shape is None or values is None:
            return text
        return shape.filled(values, dict.fromkeys(_DOCUMENTS, _CONTEXT))

    def chooses(self, text: str) -> bool:
        """Whether its template asks for numbers of documents, which then always count."""
        shape = _first(text.strip(), (s for s in self._sorted if s.asks()))
        return shape is not None and shape.chooses


def _first(text: str, shapes: Iterable[_Shape]) -> _Shape | None:
    """Return the first shape that the text fits."""
    return next((shape for shape in shapes if shape.fits(text)), None)


def _most_words_first(shape: _Shape) -> tuple[int, tuple[str, ...]]:
    return -len(shape.words), shape.literals


def _own_templates() -> Iterator[BasePromptTemplate]:
    for module in (default_prompts, chat_prompts):
        yield from (p for p in vars(module).values() if isinstance(p, BasePromptTemplate))
    for template in (
        condense_plus_context.DEFAULT_CONDENSE_PROMPT_TEMPLATE,
        condense_question.DEFAULT_TEMPLATE,
    ):
        yield PromptTemplate(template)


def _shapes(prompt: BasePromptTemplate) -> Iterator[_Shape]:
    """Yield a shape for each text of `prompt` with a question or documents, and words."""
    if isinstance(prompt, SelectorPromptTemplate):
        for each in (prompt.default_template, *(p for _, p in prompt.conditionals or ())):
            yield from _shapes(each)
        return
    renamed = {own: name for name, own in (prompt.template_var_mappings or {}).items()}
    chooses = prompt.metadata.get("prompt_type") in _CHOOSING
    for text, variable in _texts(prompt):
        numbers = "loop.index" in text  # each document is shown with its number
        text = _RICH_BLOCKS.sub("{{ rendered }}", text) if variable is _RICH_VARIABLE else text
        first, *others = variable.split(text.strip())
        variables = tuple(renamed.get(name, name) for name in others[::2])
        literals = (first, *others[1::2])
        is_worded = any(character.isalnum() for character in "".join(literals))
        if is_worded and not (_QUESTIONS | _DOCUMENTS).isdisjoint(variables):
            yield _Shape((*literals[:-1], literals[-1].rstrip()), variables, chooses or numbers)


def _texts(prompt: BasePromptTemplate) -> Iterator[tuple[str, re.Pattern[str]]]:
    """Yield the texts of a template, and the pattern of its variables."""
    if isinstance(prompt, PromptTemplate):
        yield prompt.template, _VARIABLE
    elif isinstance(prompt, ChatPromptTemplate):
        for message in prompt.message_templates:
            yield from ((b.text, _VARIABLE) for b in message.blocks if isinstance(b, TextBlock))
    elif isinstance(prompt, RichPromptTemplate):
        texts = _RICH_MESSAGE.findall(prompt.template_str) or [prompt.template_str]
        yield from ((text, _RICH_VARIABLE) for text in texts if "{#" not in text)
