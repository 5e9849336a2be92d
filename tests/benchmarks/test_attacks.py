"""Crafting questions against a cache, and counting which are served."""

import json
import random
import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import attacks
import hubs
import numpy as np
import pytest
from crafting import CARRIERS, STEPS, TRIES, VARIANTS, Attacker, hidden_texts
from fakes import WordEmbedder

VICTIM = "How do I not pay the two fees after 3 days?"
WORDS = ["bank", "tree", "fees", "river"]
NEAR = partial(attacks.similarities, WordEmbedder())


def attacker(pool: int = 4) -> Attacker:
    return Attacker(NEAR, WORDS, CARRIERS[1], random.Random(1), pool)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_crafts_a_few_texts_that_are_not_the_question_the_nearest_first(
    variant: str,
) -> None:
    texts = VARIANTS[variant](attacker(), VICTIM)
    assert 0 < len(texts) == len(set(texts)) <= TRIES
    assert VICTIM not in texts
    similarities = NEAR(VICTIM, texts)
    assert similarities == sorted(similarities, reverse=True)


def test_a_suffix_only_grows_while_it_comes_nearer() -> None:
    best = VARIANTS["an instruction, then a suffix of chosen tokens"](attacker(), VICTIM)[0]
    tokens = best.removeprefix(CARRIERS[1]).split()
    assert 0 < len(tokens) <= STEPS
    assert NEAR(VICTIM, [best])[0] > NEAR(VICTIM, [CARRIERS[1]])[0]


def test_a_question_without_a_deciding_word_offers_nothing() -> None:
    assert VARIANTS["a deciding word changed"](attacker(), "hello there") == []


def test_hidden_texts_show_nothing() -> None:
    kinds = {unicodedata.category(c) for text in hidden_texts("Say: no.") for c in text}
    assert kinds <= {"Cf", "Co", "Cn", "Mn"}


def test_a_run_counts_what_is_served_by_each_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_first(cache: object, victim: str, texts: Sequence[str]) -> str | None:
        return texts[0] if "?" in victim else None

    monkeypatch.setattr(attacks, "open_base", lambda name: None)
    monkeypatch.setattr(attacks, "SentenceTransformerEmbedder", lambda model: WordEmbedder())
    monkeypatch.setattr(attacks.OnnxEmbedder, "load", lambda directory: WordEmbedder())
    monkeypatch.setattr(attacks, "_served_by", only_first)
    out = tmp_path / "attacks.json"
    attacks.main(["--victims", "3", "--out", str(out)])
    results = json.loads(out.read_text())
    assert {row["variant"] for row in results["rows"]} == set(VARIANTS)
    found = {row["variant"]: row for row in results["rows"] if row["cache"] == "semcache"}
    row = found["the victim's question and an invisible instruction"]
    assert row["n"] == 3 and row["served"] == len(row["examples"]) == row["rate"]["value"] * 3
    assert all("?" in example["victim"] for example in row["examples"])
    assert f"{row['served']} of 3 |" in capsys.readouterr().out


def test_hubs_are_counted_apart_from_entries_that_many_ask_for() -> None:
    # ten intents of twelve questions each; the intents lie around one direction, well apart
    rng = np.random.default_rng(0)
    intents = np.repeat(np.arange(10), 12)
    centres = np.eye(10, 64) + 0.6
    rows = centres[intents] + 0.15 * rng.normal(size=(120, 64))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    row = hubs.measure(vectors, intents, served_at=0.9, seed=0)
    assert row["most_intents_at_once"] == 10
    assert row["hubs"] > 0 and row["ordinary"] > 0
    assert row["detected"]["n"] == row["hubs"]
