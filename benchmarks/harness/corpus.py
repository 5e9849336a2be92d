"""Synthetic questions and clustered vectors, which caches are filled with and asked.

It needs numpy alone, so that the environments of other caches can import it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
T = TypeVar("T")

TARGETS = 400
NOISE = 0.6
"""Length of the noise on a cluster's centre: a member's cosine to it is 1 / sqrt(1 + .6 ** 2)."""

_ACTIONS = (
    *("change", "cancel", "renew", "download", "share", "print", "export", "restore", "rename"),
    *("archive", "unlock", "verify", "upgrade", "transfer", "delete", "schedule"),
)
_THINGS = (
    *("invoice", "subscription", "delivery address", "password", "backup", "report", "playlist"),
    *("boarding pass", "warranty", "phone number", "calendar", "photo album", "tax form"),
    *("gift card", "meeting", "profile picture", "licence key", "bank statement"),
)
_PLACES = (
    *("on my phone", "in the web app", "from my tablet", "for my team", "before the trial ends"),
    *("without losing data", "after moving abroad", "with a shared account"),
)
_FORMS = (
    *("How can I {}?", "Please tell me how to {}.", "What do I have to do to {}?"),
    *("What is the way to {}?", "Can you explain how to {}?", "I want to {}, how do I do that?"),
)
_OPENERS = ("", "Hi, ", "Hello! ", "Good morning, ", "Dear team, ")

_MEASURES = ("rainfall", "temperature", "wind speed", "air pressure", "humidity", "snow depth")
_CITIES = (
    *("Lima", "Oslo", "Nairobi", "Hanoi", "Quito", "Dublin", "Perth", "Cairo", "Riga", "Seoul"),
    *("Tunis", "Bogota", "Turin", "Osaka", "Accra", "Malmo", "Porto", "Dakar", "Minsk", "Havana"),
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)

_YEARS = ("last year", "in 1990", "on average")

_ANIMALS = ("otter", "heron", "lynx", "salmon", "beetle", "falcon", "tortoise", "bat", "octopus")
_TRAITS = ("hunt", "sleep", "migrate", "breed", "find its way", "survive winter", "raise its young")
_HABITATS = ("in rivers", "in cities", "in the tundra", "near the sea", "on farms", "underground")


@dataclass(frozen=True)
class Questions:
    """`stored[i]` is stored; `paraphrases` ask the same as `stored`, `strangers` what is not there.

    `new` are to be stored in the course of a run. `centres` are the topics of the filler entries.
    """

    stored: list[str]
    paraphrases: list[tuple[int, str]]
    strangers: list[str]
    new: list[str]
    centres: list[str]


def questions(seed: int) -> Questions:
    """The same ones for the same seed, in a random order."""
    rng = np.random.default_rng(seed)
    tasks = _shuffled([f"{a} the {t} {p}" for a, t, p in product(_ACTIONS, _THINGS, _PLACES)], rng)
    paraphrases = [
        (i, opener + form.format(task))
        for i, task in enumerate(tasks[:TARGETS])
        for opener, form in product(_OPENERS, _FORMS)
    ]
    weather = [
        f"What was the {measure} in {city} in {month} {year}?"
        for measure, city, month, year in product(_MEASURES, _CITIES, _MONTHS, _YEARS)
    ]
    animals = [f"How does the {a} {t} {h}?" for a, t, h in product(_ANIMALS, _TRAITS, _HABITATS)]
    return Questions(
        stored=[f"How do I {task}?" for task in tasks[:TARGETS]],
        paraphrases=_shuffled(paraphrases, rng),
        strangers=_shuffled(weather, rng),
        new=[f"How do I {task}?" for task in tasks[2 * TARGETS :]],
        centres=[*animals, *(f"How do I {task}?" for task in tasks[TARGETS : 2 * TARGETS])],
    )


def clustered(centres: Matrix, n: int, seed: int, noise_length: float = NOISE) -> Matrix:
    """`n` unit vectors around randomly drawn rows of `centres` (unit rows)."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n, centres.shape[1]), dtype=np.float32)
    noise *= noise_length / np.linalg.norm(noise, axis=1, keepdims=True)
    return unit(centres[rng.integers(0, len(centres), n)] + noise)


def unit(rows: NDArray[Any]) -> Matrix:
    """The rows at length 1."""
    found: Matrix = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def rows(embed: Callable[[list[str]], Matrix], size: int, seed: int) -> tuple[list[str], Matrix]:
    """`size` texts and unit vectors: the stored questions, then clustered filler."""
    made = questions(seed)
    stored = embed(made.stored)
    filler = clustered(embed(made.centres), size - len(stored), seed)
    texts = [*made.stored, *(f"filler {i}" for i in range(len(filler)))]
    return texts, np.concatenate([stored, filler])


def _shuffled(items: list[T], rng: np.random.Generator) -> list[T]:
    return [items[i] for i in rng.permutation(len(items))]
