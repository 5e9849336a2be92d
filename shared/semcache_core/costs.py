"""Costs of answers by the app's own price table, and what hits save."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from fnmatch import fnmatch
from types import MappingProxyType
from typing import Any, TypeVar

from semcache_core.errors import SettingsError
from semcache_core.types import Usage, is_amount

MILLION = 1_000_000
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Prices:
    """Prices of models: a pattern of the model's name -> (input, output) per million tokens.

    Patterns are as in a shell (`*` stands for anything) and ignore case; the first match counts.
    The amounts are in a currency of your choice, the same for all.

    There are no prices until the app gives some: list prices change, and differ by contract and
    by region, and a wrong figure that looks right is worse than none. A provider's discount for
    its own prompt cache is not considered.

    Raises SettingsError for a price that is not two amounts of 0 or more.
    """

    per_million: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.per_million, Mapping):
            raise SettingsError(f"prices cannot be {self.per_million!r}; {_EXAMPLE}")
        for pattern, price in self.per_million.items():
            _check(pattern, price)
        # a copy, so that the prices cannot change while they are read
        object.__setattr__(self, "per_million", MappingProxyType(dict(self.per_million)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Prices, (dict(self.per_million),)  # a read-only view cannot be pickled

    def cost(self, usage: Usage) -> float | None:
        """The cost of an answer; None where the model has no price, or a token count is missing.

        One count alone gives no cost: output is the larger part of most bills.
        """
        if usage.model is None or usage.tokens_in is None or usage.tokens_out is None:
            return None
        name = usage.model.lower()
        for pattern, (price_in, price_out) in self.per_million.items():
            if fnmatch(name, pattern.lower()):
                return (usage.tokens_in * price_in + usage.tokens_out * price_out) / MILLION
        return None


@dataclass(frozen=True)
class Saved:
    """What hits saved: tokens, money in the unit of the prices, and seconds.

    Sums over the entries where it is known; None where it is known for none.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    cost: float | None = None
    seconds: float | None = None

    def plus(self, more: "Saved") -> "Saved":
        return Saved(
            _sum(self.tokens_in, more.tokens_in),
            _sum(self.tokens_out, more.tokens_out),
            _sum(self.cost, more.cost),
            _sum(self.seconds, more.seconds),
        )

    def times(self, hits: int) -> "Saved":
        """The savings of so many hits, if one saves this."""
        return Saved(*(None if one is None else hits * one for one in astuple(self)))


def _sum(before: N | None, more: N | None) -> N | None:
    if before is None or more is None:
        return more if before is None else before
    return before + more


def _check(pattern: object, price: object) -> None:
    if not isinstance(pattern, str):
        raise SettingsError(f"a model in prices is a str, not {pattern!r}; {_EXAMPLE}")
    if (
        isinstance(price, str)
        or not isinstance(price, tuple | list)
        or len(price) != 2
        or not all(is_amount(amount) for amount in price)
    ):
        raise SettingsError(f"the price of {pattern!r} cannot be {price!r}; {_EXAMPLE}")


_EXAMPLE = 'write Prices({"my-model*": (0.5, 1.5)}), for input and output, a million tokens each'
