"""Decides what may be stored, by the app's own hooks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from semcache_core.errors import SemcacheError, SettingsError
from semcache_core.types import Request

T = TypeVar("T")

Admit: TypeAlias = Callable[[Request, str], bool]
"""Whether this response may be stored as the answer to this request."""

Redact: TypeAlias = Callable[[str], str]
"""The text with everything personal replaced; a text without any is returned unchanged."""


# The version of LangChain's own JSON: with another one an answer cannot be read.
_OF_THE_FORMAT = {"lc"}


@dataclass(frozen=True)
class Admitted:
    """The texts to store."""

    question: str
    response: str


@dataclass(frozen=True)
class Admission:
    """Decides what is stored, by two plain functions of the app, each called at every update.

    `admit` sees the request and the response as they are. `redact` is then applied to both texts:

    - It changes the question: nothing is stored. Such a question holds something personal, so its
      answer most likely does too, in words that no pattern finds. Stored under the redacted
      question, "What is the balance of <ACCOUNT>?" would answer everybody with one customer's
      balance; under the original one, its text and vector would be kept after all.
    - It changes the response only: the redacted response is stored. Nothing is, if no words are
      left of it.

    A response that `wraps` the answer in JSON, as those of the adapters, stays readable: `redact`
    sees each text and number in it, not the whole. A number that it changes becomes a text.
    Only texts are redacted. `namespace`, `scope` and `tags` are stored as they are given.
    """

    admit: Admit | None = None
    redact: Redact | None = None

    def __post_init__(self) -> None:
        for name, hook in (("admit", self.admit), ("redact", self.redact)):
            if hook is not None and not callable(hook):
                raise SettingsError(
                    f"{name} must be a function, got {hook!r}; leave it out for none"
                )

    def admitted(self, request: Request, response: str, wraps: bool = False) -> Admitted | None:
        """The texts to store as the answer to `request`; None when nothing may be stored.

        Raises SemcacheError where a hook fails or returns another type: nothing is stored
        unchecked.
        """
        if self.admit is not None and not _asked("admit", self.admit, bool, request, response):
            return None
        if not self.storable(request.question):
            return None
        text = self._inside(response) if wraps else self.text(response)
        emptied = response.strip() and not text.strip()
        return None if emptied else Admitted(request.question, text)

    def storable(self, question: str) -> bool:
        """Whether a question may be written anywhere: `redact` leaves it unchanged.

        Raises SemcacheError as `admitted` does.
        """
        return self.text(question) == question

    def text(self, text: str) -> str:
        """The text as it may be stored. Raises SemcacheError as `admitted` does."""
        return text if self.redact is None else _asked("redact", self.redact, str, text)

    def _inside(self, text: str) -> str:
        """JSON text with what is in it redacted; a text that is no JSON, redacted as a whole."""
        if self.redact is None:
            return text
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return self.text(text)
        redacted = self._value(value)
        # an unchanged one to the byte: nothing is written in another way
        return text if redacted == value else json.dumps(redacted)

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                self.text(name): one if name in _OF_THE_FORMAT else self._value(one)
                for name, one in value.items()
            }
        if isinstance(value, list):
            return [self._value(one) for one in value]
        if isinstance(value, str):
            # JSON in JSON, such as the arguments of a tool call
            return self._inside(value) if value[:1] in ("{", "[") else self.text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            redacted = self.text(repr(value))
            return value if redacted == repr(value) else redacted
        return value


def _asked(name: str, hook: Callable[..., T], kind: type[T], *arguments: object) -> T:
    """What the hook returns. Errors name types only, to keep the texts out of logs."""
    try:
        answer: object = hook(*arguments)
    except Exception as error:  # whatever the app's own code raises
        raise SemcacheError(
            f"{name} failed with {type(error).__name__}, so nothing was stored; "
            "its own error is the cause of this one"
        ) from error
    if isinstance(answer, np.bool_):  # what a comparison of arrays gives
        answer = bool(answer)
    if not isinstance(answer, kind):
        raise SemcacheError(
            f"{name} must return a {kind.__name__}, got a {type(answer).__name__}, so nothing was "
            "stored; return one wherever the function ends, and do not make it async"
        )
    return answer
