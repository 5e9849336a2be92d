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
# The answer is the number of a document, so it means nothing with other ones.
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
_MOST = 256  # an app may make a new template for each call


@dataclass(frozen=True)
class _Shape:
    """A template as literal texts and, between each two of them, a variable."""

    literals: tuple[str, ...]
    variables: tuple[str, ...]
    chooses: bool

    @property
    def words(self) -> str:
        """What a text made from it is sure to hold."""
        return "".join(self.literals)

    def asks(self) -> bool:
        return not _QUESTIONS.isdisjoint(self.variables)

    def fits(self, text: str) -> bool:
        return self._earliest(text) is not None

    def values(self, text: str) -> list[str] | None:
        """The variables' parts of `text`; None unless it fits in exactly one way.

        Each literal is looked for as early and as late as it can be. Where both find the same
        place for all of them there is one way, else a variable's part holds the template's words.
        """
        places = self._earliest(text)
        if places is None or places != self._latest(text):
            return None
        starts = [start + len(words) for start, words in zip(places, self.literals, strict=True)]
        return [text[a:b] for a, b in zip(starts, places[1:], strict=False)]

    def filled(self, values: Sequence[str], shown: Mapping[str, str]) -> str:
        """The text with these parts, but for variables in whose place something else is `shown`."""
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
        """Of a text that fits."""
        first, *middle, last = self.literals
        at = len(text) - len(last)
        places = [at]
        for words in reversed(middle):
            at = text.rfind(words, len(first), at)
            places.append(at)
        return [0, *reversed(places)]


class Templates:
    """A splitter that knows LlamaIndex's own templates, and those that it was shown.

    The question is the part of the variable `query_str`, `question` or `query`, where a text fits
    its template in exactly one way; it passes through `fallback` like any other text, so that it
    cannot bring its own documents along. Of several templates that a text fits, the one with most
    words decides. A text that fits it in more than one way, such as one with a document that holds
    the template's own words, can only be matched exactly, and so can one whose template has
    documents and no question, such as an extractor's; one that fits none is the fallback's.
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
        """Look for questions in texts that are made from `prompt`; the last 256 are kept."""
        with self._lock:
            new = [s for s in _shapes(prompt) if s not in self._own and s not in self._shown]
            if not new:
                return
            self._shown.update(dict.fromkeys(new))
            for shape in [*self._shown][:-_MOST]:
                del self._shown[shape]
            self._sorted = tuple(sorted((*self._own, *self._shown), key=_most_words_first))

    def split(self, text: str, ignore_context: bool = False) -> Split | None:
        """Take a user text apart; with `ignore_context` the documents are not in the frame."""
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
        """A text without a question, such as a chat engine's system text, without its documents."""
        shape = _first(text.strip(), (s for s in self._sorted if not s.asks()))
        values = shape.values(text.strip()) if shape else None
        if shape is None or values is None:
            return text
        return shape.filled(values, dict.fromkeys(_DOCUMENTS, _CONTEXT))

    def chooses(self, text: str) -> bool:
        """Whether its template asks for the numbers of documents: then they always count."""
        shape = _first(text.strip(), (s for s in self._sorted if s.asks()))
        return shape is not None and shape.chooses


def _first(text: str, shapes: Iterable[_Shape]) -> _Shape | None:
    """The first that the text fits."""
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
    """One for each text of `prompt` that has a question or documents, and words of its own."""
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
    """The texts of a template, and what its variables look like in them."""
    if isinstance(prompt, PromptTemplate):
        yield prompt.template, _VARIABLE
    elif isinstance(prompt, ChatPromptTemplate):
        for message in prompt.message_templates:
            yield from ((b.text, _VARIABLE) for b in message.blocks if isinstance(b, TextBlock))
    elif isinstance(prompt, RichPromptTemplate):
        texts = _RICH_MESSAGE.findall(prompt.template_str) or [prompt.template_str]
        yield from ((text, _RICH_VARIABLE) for text in texts if "{#" not in text)
