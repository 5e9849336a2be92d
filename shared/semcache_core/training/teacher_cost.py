"""What a teacher will cost, before it is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semcache_core.training.pairs import MinedPair
from semcache_core.training.teacher import SCHEMA, messages, verdict_key
from semcache_core.training.verdicts import VerdictStore

PRICES: Mapping[str, tuple[float, float]] = {
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o": (2.50, 10.00),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1": (2.00, 8.00),
    "gpt-5-mini": (0.25, 2.00),
    "claude-haiku-4-5": (1.00, 5.00),
    "claude-sonnet-4-5": (3.00, 15.00),
}
"""Dollars per million input and output tokens. List prices change: bring your own for a budget."""
_CHARACTERS_PER_TOKEN = 4
_OUTPUT_TOKENS = 60  # a probability and a sentence, with the braces around them


@dataclass(frozen=True)
class Estimate:
    """What judging pairs will take. `dollars` is None where the model's price is not known.

    The tokens are rough, four characters each; those that a model spends on thinking before it
    answers are not among them.
    """

    model: str
    calls: int
    input_tokens: int
    output_tokens: int
    dollars: float | None

    def __str__(self) -> str:
        cost = (
            f"no price is known for {self.model}"
            if self.dollars is None
            else f"about ${self.dollars:,.2f} at the list price of {self.model}"
        )
        return (
            f"{self.calls:,} calls, about {self.input_tokens:,} tokens in and "
            f"{self.output_tokens:,} out; {cost}"
        )


def estimate(
    pairs: Sequence[MinedPair],
    teacher_name: str,
    prices: Mapping[str, tuple[float, float]] = PRICES,
    store: str | Path | None = None,
) -> Estimate:
    """Calls, tokens and dollars of judging `pairs`, without those that `store` has verdicts on.

    `prices` gives dollars per million input and output tokens by the teacher's name, with the
    provider or without. Nothing is asked. Raises TrainingError for an unusable store.
    """
    todo = {verdict_key(teacher_name, pair): pair for pair in pairs}
    if store is not None and Path(store).exists():
        with VerdictStore(store) as verdicts:
            todo = {key: pair for key, pair in todo.items() if key not in verdicts}
    characters = sum(
        len(content) for p in todo.values() for _, content in messages(p.prompt, p.other)
    ) + len(todo) * len(SCHEMA)
    tokens_in, tokens_out = characters // _CHARACTERS_PER_TOKEN, len(todo) * _OUTPUT_TOKENS
    price = prices.get(teacher_name) or prices.get(teacher_name.partition(":")[2])
    dollars = None if price is None else (tokens_in * price[0] + tokens_out * price[1]) / 1e6
    return Estimate(teacher_name, len(todo), tokens_in, tokens_out, dollars)
