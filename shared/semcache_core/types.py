"""Records that a lookup passes on, and protocols of the replaceable components."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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

Parts: TypeAlias = Callable[[], Mapping[str, object]]
"""Returns the parts of a scope by name, each as JSON: `lambda: {"system prompt": text}`."""


@dataclass(frozen=True)
class Request:
    """A question to the cache.

    `question` may be matched by meaning. `scope` must be equal (system prompt, history, documents,
    tools, model and parameters); adapters pass a digest. `namespace` is the tenant, None for the
    cache's own. With `exact_only` the question must be equal too. `tags` label the entry for
    invalidation. `writer` is the user, see `CacheSettings.confirmations`; it need not be equal, nor
    need `mode`.

    `parts` and `why_exact` only serve `explain`: which parts of the scope differ from those of
    another request, and why it is `exact_only`. `parts` is called when an answer is stored; of each
    part four hex digits of a digest are kept.

    Raises RequestError for a field of a wrong type: a bad namespace must never become a shared one.
    """

    question: str
    scope: str = ""
    namespace: str | None = None
    exact_only: bool = False
    tags: tuple[str, ...] = ()
    writer: str | None = None
    mode: CallMode = "normal"
    parts: Parts | None = field(default=None, compare=False, repr=False)
    why_exact: str = field(default="", compare=False, repr=False)

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
        if self.parts is not None and not callable(self.parts):
            raise RequestError(
                f"parts must be a function, got {self.parts!r}; "
                'write parts=lambda: {"system prompt": text}'
            )


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


LookupCode: TypeAlias = Literal[
    "exact",
    "semantic",
    "below_threshold",
    "deciding_word",
    "rival_answer",
    "reported_wrong",
    "not_confirmed",
    "written_for_another",
    "threshold_raised",
    "withheld",
    "empty_scope",
    "only_exact_entries",
    "expired",
    "exact_only",
    "unreadable",
    "other_language",
    "no_threshold",
    "index_not_ready",
    "refresh",
    "bypass",
    "not_cached",
    "failed",
]
"""What decided a lookup; docs/why-did-it-miss.md explains each."""


@dataclass(frozen=True)
class Why:
    """What decided a lookup: `code` for programs, `reason` for people.

    `probability` is that of the nearest stored question, `threshold` the one that was asked for,
    `served_from` the smallest `max_error_rate` at which it would be served. They are None where the
    lookup ended before it came to them, and `served_from` also where no bound would do.
    """

    code: LookupCode
    reason: str
    probability: float | None = None
    threshold: float | None = None
    served_from: float | None = None


@dataclass(frozen=True)
class Lookup:
    """How the cache decided one call; `print` it to read it. See `Why` for the fields.

    A miss is explained when it is first asked about: that takes longer than the decision.
    """

    hit: Hit | None
    cause: Why | Callable[[], Why] = field(repr=False, compare=False)

    @cached_property
    def why(self) -> Why:
        return self.cause if isinstance(self.cause, Why) else self.cause()

    @property
    def code(self) -> LookupCode:
        return self.why.code

    @property
    def reason(self) -> str:
        return self.why.reason

    @property
    def probability(self) -> float | None:
        return self.why.probability if self.hit is None else self.hit.probability

    @property
    def threshold(self) -> float | None:
        return self.why.threshold

    @property
    def served_from(self) -> float | None:
        return self.why.served_from

    def __str__(self) -> str:
        if self.hit is not None:
            return f"{self.hit.kind} hit: {self.reason}"
        if self.probability is None or self.threshold is None:
            return f"miss: {self.reason}"
        text = f"miss: {self.reason} (P = {self.probability:.3f}, needed {self.threshold:.3f}"
        if self.served_from is None:
            return text + ")"
        return f"{text}; served from max_error_rate={self.served_from:g} on)"


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
