"""Records that a lookup passes on, and protocols of the replaceable components."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from semcache_core.errors import RequestError

Vector: TypeAlias = NDArray[np.float32]
Matrix: TypeAlias = NDArray[np.float32]

Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""

Reason: TypeAlias = Literal["expired", "space"]
"""Why an entry was evicted."""

CallMode: TypeAlias = Literal["normal", "refresh", "bypass"]
"""How a call uses the cache: "refresh" reads nothing and stores, "bypass" does neither."""
CALL_MODES: tuple[CallMode, ...] = ("normal", "refresh", "bypass")


@dataclass(frozen=True)
class Request:
    """A question to the cache.

    `question` may be matched by meaning. `scope` must be equal (system prompt, history, documents,
    tools, model and parameters); adapters pass a digest. `namespace` is the tenant, None for the
    cache's own. With `exact_only` the question must be equal too. `tags` label the entry for
    invalidation. `writer` is the user, see `CacheSettings.confirmations`; it need not be equal, nor
    need `mode`.

    Raises RequestError for a field of a wrong type: a bad namespace must never become a shared one.
    """

    question: str
    scope: str = ""
    namespace: str | None = None
    exact_only: bool = False
    tags: tuple[str, ...] = ()
    writer: str | None = None
    mode: CallMode = "normal"

    def __post_init__(self) -> None:
        for name, value in (("question", self.question), ("scope", self.scope)):
            if not isinstance(value, str):
                raise RequestError(f"{name} must be a str, got {value!r}; convert it first")
        check_namespace(self.namespace, optional=True)
        check_tags(self.tags)
        if self.writer is not None and not isinstance(self.writer, str):
            raise RequestError(f"writer must be a str or None, got {self.writer!r}")
        if self.mode not in CALL_MODES:
            raise RequestError(f"mode must be one of {CALL_MODES}, got {self.mode!r}")


def check_namespace(namespace: object, *, optional: bool = False) -> None:
    """Raise RequestError unless `namespace` is a non-empty str (or None where `optional`)."""
    if namespace is None and optional:
        return
    if not isinstance(namespace, str) or not namespace:
        raise RequestError(
            f"namespace must be a non-empty str, got {namespace!r}; "
            "pass the tenant's id as text, or leave it out for the default namespace"
        )


def check_tags(tags: object) -> None:
    """Raise RequestError unless `tags` is a sequence of str (and not one bare str)."""
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise RequestError(f"tags must be a sequence of str, got {tags!r}; write ('{tags}',)")
    for tag in tags:
        if not isinstance(tag, str):
            raise RequestError(f"a tag must be a str, got {tag!r}")


def check_seconds(name: str, value: object, *, above: float) -> None:
    """Raise RequestError unless `value` is a number above `above` (NaN never is)."""
    if not isinstance(value, int | float) or not value > above:
        least = "" if above == -math.inf else f" above {above:g}"
        raise RequestError(f"{name} must be seconds{least}, got {value!r}; leave it out for none")


@dataclass(frozen=True)
class Usage:
    """Tokens and seconds that the model took for an answer; None where unknown.

    Raises RequestError for an invalid count or amount.
    """

    model: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.model is not None and not isinstance(self.model, str):
            raise RequestError(f"model must be a str or None, got {self.model!r}")
        for name, count in (("tokens_in", self.tokens_in), ("tokens_out", self.tokens_out)):
            if count is not None and not is_count(count):
                raise RequestError(
                    f"{name} must be a whole number from 0 to {MOST_TOKENS}, got {count!r}; "
                    "leave it out where it is not known"
                )
        if self.seconds is not None and not is_amount(self.seconds):
            raise RequestError(
                f"seconds must be a number from 0 on, got {self.seconds!r}; leave it out where it "
                "is not known"
            )


MOST_TOKENS = 10**12
"""In one answer; a larger number is a mistake, and its sums would not fit into a database."""


def is_count(value: object) -> bool:
    """Whether it is a plausible number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def is_amount(value: object) -> bool:
    """Whether it is a finite number, of 0 or more."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and 0 <= value < math.inf  # type: ignore[operator]


@dataclass(frozen=True)
class Entry:
    """A stored answer. Times are seconds since the epoch."""

    id: int
    question: str
    response: str
    created: float
    expires: float | None


@dataclass(frozen=True)
class Candidate:
    """A live entry near a question, with cosine similarity and P(its answer is right).

    `margin` is its similarity minus that of the nearest entry with another answer, capped;
    `differences` are the guard's findings.
    """

    entry: Entry
    similarity: float
    probability: float
    margin: float = 0.0
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hit:
    """An answer served from the cache. `question` is the stored one, `age_s` seconds old.

    `audited`: call the model too, see `SemanticCache.lookup`.
    """

    response: str
    kind: Literal["exact", "semantic"]
    probability: float
    similarity: float
    question: str
    entry_id: int
    age_s: float
    audited: bool = False


@runtime_checkable
class Embedder(Protocol):
    """Turns questions into vectors.

    `fingerprint` identifies the weights; vectors of different fingerprints are never compared.
    """

    @property
    def fingerprint(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed(self, texts: list[str]) -> Matrix:
        """Float32 [n, dimension], each row of length 1."""
        ...

    def reads(self, text: str, max_tokens: int) -> bool:
        """Whether the model sees all of `text`: no more than `max_tokens`, a token for each part.

        Otherwise different texts could get the same vector, so they are only matched exactly.
        """
        ...


@dataclass(frozen=True)
class Generation:
    """A collection of the vector index: the `number`th of its partition.

    It holds every vector of the partition up to entry id `through` (0: not in use yet). `added`
    counts all vectors written, deleted ones included, which Chroma keeps. `collection` is Chroma's
    id (empty: none yet): a collection with the same name may be another.
    """

    number: int = 0
    through: int = 0
    added: int = 0
    collection: str = ""

    def is_same_collection(self, other: "Generation") -> bool:
        return (self.number, self.collection) == (other.number, other.collection)


EMPTY = Generation()
"""The generation of a partition without an index."""


class NearestIndex(Protocol):
    """A nearest-neighbour index as a lookup sees it."""

    def nearest(
        self, partition: bytes, vector: Vector, k: int, generation: Generation = EMPTY
    ) -> list[tuple[int, float]]:
        """At most `k` (entry id, cosine similarity), best first, of that very collection;
        CollectionGoneError where it is gone.
        """
        ...


class VectorIndex(NearestIndex, Protocol):
    """A rebuildable nearest-neighbour index with one collection per partition."""

    def add(
        self,
        partition: bytes,
        ids: Sequence[int],
        vectors: Matrix,
        generation: Generation = EMPTY,
    ) -> None: ...

    def remove(
        self, partition: bytes, ids: Sequence[int], generation: Generation = EMPTY
    ) -> None: ...

    def drop(self, partition: bytes, number: int = 0) -> None: ...

    def count(self, partition: bytes, generation: Generation = EMPTY) -> int: ...

    def close(self) -> None: ...
