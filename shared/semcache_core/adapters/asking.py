"""What a framework says of its calls: how a model is asked, how its answers are written down."""

from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from semcache_core.request import digest
from semcache_core.types import Hit, Request

Q = TypeVar("Q")
T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True)
class Kind(Generic[Q, T, A]):
    """One way to ask the model: for a whole answer, or for a stream of it.

    `ask` and `aask` give items; `copy` keeps an item as it is now, for who reads it may change it;
    `whole` makes an answer of all items, None where there is none.
    """

    ask: Callable[[Q], Generator[T, None, None]]
    aask: Callable[[Q], AsyncGenerator[T, None]]
    copy: Callable[[T], T]
    whole: Callable[[Q, Sequence[T]], A | None]


class Answers(Protocol[A]):
    """How a framework's answers are written, read and judged. Any of it may raise: then the answer
    is not stored, or the lookup is a miss.
    """

    def dump(self, answer: A) -> str:
        """The answer as text, without what tells how it was come by."""
        ...

    def load(self, text: str, hit: Hit | None) -> A:
        """What `dump` was given: objects of the caller's own, with fresh ids, marked as `hit`.

        Without a hit, the model just gave the answer to another one who asked the same.
        """
        ...

    def is_storable(self, answer: A) -> bool:
        """False for what must not be repeated: empty, cut short, refused, broken."""
        ...

    def calls_tools(self, answer: A) -> bool:
        """Whether it asks for a tool: then it is stored for the very same request only."""
        ...

    def words(self, answer: A) -> str | None:
        """What a user reads, by which two answers are compared; None where that is not all."""
        ...


@dataclass
class Asked(Generic[Q, A]):
    """Where a call stands. `request` is None where it is not cached at all.

    `answer` is to be given in place of the model's; without a `hit`, the model just gave it to
    another caller.
    """

    question: Q
    request: Request | None = None
    answer: A | None = None
    hit: Hit | None = None

    @property
    def key(self) -> str:
        """Equal for calls that may share one answer."""
        asked = self.request
        assert asked is not None
        # what may be served to one writer need not be confirmed for another
        return digest([asked.namespace, asked.scope, asked.question, asked.writer])
