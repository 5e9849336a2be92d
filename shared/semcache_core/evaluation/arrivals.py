"""Streams of questions in the order in which they arrive: read from a file, or made."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from semcache_core.errors import TrainingError
from semcache_core.training.pairs import Pair
from semcache_core.training.questions import read_objects, text_field
from semcache_core.training.streams import domain_from_pairs

_EXAMPLE = '{"question": "...", "answer_id": "..."}'


@dataclass(frozen=True)
class Arrival:
    """One request. Equal `answer_id`s mean that one answer serves both questions."""

    question: str
    answer_id: str


def read_stream(file: str | Path) -> list[Arrival]:
    """Read `{"question": str, "answer_id": str}` lines, in their order; blank lines are skipped.

    Other keys are ignored. Raises TrainingError naming file and line for a line that is not such
    an object, and for a file without arrivals.
    """
    arrivals = [_parse(data, where) for where, data in read_objects(file, _EXAMPLE)]
    if not arrivals:
        raise TrainingError(f"{file} holds no arrivals; give lines like {_EXAMPLE}")
    return arrivals


def _parse(data: dict[str, Any], where: str) -> Arrival:
    answer_id = data.get("answer_id")
    # a blank one would make one answer of all questions whose answer nobody knows
    if not isinstance(answer_id, str) or not answer_id.strip():
        raise TrainingError(
            f"{where}: answer_id is {answer_id!r}; give a text, the same for questions with the "
            "same answer"
        )
    return Arrival(text_field(data, "question", where), answer_id)


def in_order(questions: Sequence[Arrival], seed: int | None = None) -> list[Arrival]:
    """Each of `questions` once, in the order given (that of a log), or shuffled with `seed`."""
    _check_some(questions)
    if seed is None:
        return list(questions)
    return random.Random(seed).sample(questions, len(questions))


def zipf(
    questions: Sequence[Arrival], length: int, exponent: float = 1.0, seed: int = 0
) -> list[Arrival]:
    """`length` arrivals as busy services see them: few answers are asked for often, most rarely.

    The answers are ranked at random; the one of rank r is asked for with a probability in
    proportion to r ** -exponent (0 is uniform, 1 is Zipf's law), each time in one of its wordings
    in `questions`, all equally likely. So both exact repeats and paraphrases come up.
    """
    _check_some(questions)
    if length < 1:
        raise TrainingError(f"length is {length}; a stream has at least one arrival")
    if not 0 <= exponent < math.inf:  # written so that NaN fails too
        raise TrainingError(f"exponent is {exponent}; give a number from 0 (uniform) up")
    wordings: dict[str, list[Arrival]] = {}
    for arrival in questions:
        wordings.setdefault(arrival.answer_id, []).append(arrival)
    chooser = random.Random(seed)
    ranked = chooser.sample(list(wordings), len(wordings))
    weights = list(accumulate(rank**-exponent for rank in range(1, len(ranked) + 1)))
    drawn = chooser.choices(ranked, cum_weights=weights, k=length)
    return [chooser.choice(wordings[answer_id]) for answer_id in drawn]


def from_pairs(pairs: Sequence[Pair], seed: int = 0) -> list[Arrival]:
    """Every question of labelled pairs once, shuffled: a stream like that of arXiv 2402.01173.

    The paper streams the prompts of its labelled pairs through a cache. Questions joined by
    positive pairs, directly or through others, have the same answer; any other two count as having
    different ones, so errors can only come out too high. This is our reading: the paper's exact
    draw is not known to us, and figures from here and from there need not be comparable.
    """
    domain = domain_from_pairs("pairs", pairs)
    arrivals = [
        Arrival(text, str(answer))
        for text, answer in zip(domain.texts, domain.answers.tolist(), strict=True)
    ]
    return in_order(arrivals, seed)


def _check_some(questions: Sequence[Arrival]) -> None:
    if not questions:
        raise TrainingError("no questions were given; a stream is made of at least one")
