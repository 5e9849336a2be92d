"""A miss takes the same steps whether or not another tenant has the question."""

import sqlite3
from typing import Any

import pytest
from conftest import Bench
from fakes import WordEmbedder
from semcache_core import Request, SemanticCache
from semcache_core.decision import guard, scoring
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.storage.database import Database
from semcache_core.storage.ledger import Ledger
from semcache_core.testing import engine_of

QUESTION = "where is the main office of this bank in Basel"
SAME = "in Basel where is the main office of this bank"
NEGATED = f"{QUESTION} not"  # near enough to be judged, and not served


class Steps:
    """What a lookup does: its statements with how many rows each gave, and what it computes."""

    def __init__(self, cache: SemanticCache, embedder: WordEmbedder) -> None:
        self._cache, self._embedder = cache, embedder

    def of(self, request: Request, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        steps: list[Any] = []
        read_fast, read, apart = Ledger.read_fast, Ledger.read, guard.read

        def noted(kind: str, original: Any) -> Any:
            def call(database: Database, query: Any, parameters: Any) -> Any:
                rows = original(database, query, parameters)
                steps.append((kind, str(query), len(rows)))
                return rows

            return call

        def taken_apart(text: str) -> Any:
            steps.append(("read", len(text)))
            return apart(text)

        before = len(self._embedder.calls)
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "read_fast", noted("bare", read_fast))
            patched.setattr(Ledger, "read", noted("typed", read))
            patched.setattr(scoring, "read", taken_apart)
            assert self._cache.lookup(request) is None
        return [*steps, ("embedded", len(self._embedder.calls) - before)]


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("own", [[], ["who pays for lunch"], [NEGATED]])
@pytest.mark.parametrize("asked", [QUESTION, SAME])
def test_the_steps_of_a_miss_tell_nothing_of_another_tenant(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, own: list[str], asked: str
) -> None:
    """The other tenant has stored it, or only asked, and is asked again just before."""

    def steps(name: str, stored: bool, looked_up: bool) -> list[Any]:
        scoring._stored_reading.cache_clear()
        embedder = WordEmbedder()
        with bench.open(path=bench.directory / name, embedder=embedder) as cache:
            for question in own:
                cache.update(Request(question, namespace="me"), "mine")
            for question in own:  # the other's are as many, whatever he has
                cache.update(Request(question, namespace="other"), "his")
            cache.update(Request("nothing of the kind", namespace="other"), "his")
            if stored:
                cache.update(Request(QUESTION, namespace="other"), "his")
            if looked_up:
                for question in (QUESTION, SAME, asked):
                    cache.lookup(Request(question, namespace="other"))
            found = Steps(cache, embedder).of(Request(asked, namespace="me"), monkeypatch)
        return found

    alone = steps("alone", stored=False, looked_up=False)
    assert ("embedded", 1 if own else 0) in alone
    assert ("read", len(NEGATED)) in alone or own != [NEGATED]
    assert steps("stored", stored=True, looked_up=False) == alone
    assert steps("asked", stored=False, looked_up=True) == alone
    assert steps("both", stored=True, looked_up=True) == alone


def test_the_model_s_tokenizer_forgets_what_was_asked_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It keeps the last tokens from `reads` to `embed`, but not to the `reads` of another."""
    embedder = OnnxEmbedder.load(DEFAULT_ARTEFACT)
    session, tokenizer, unknown = embedder._open()
    encoded: list[str] = []

    class Counting:
        def encode(self, text: str) -> Any:
            encoded.append(text)
            return tokenizer.encode(text)

    monkeypatch.setattr(embedder, "_opened", (session, Counting(), unknown))
    for _ in range(2):
        assert embedder.reads(QUESTION, 40)
        embedder.embed([QUESTION])
    assert encoded == [QUESTION] * 2


@pytest.mark.usefixtures("still")
def test_no_statement_of_a_lookup_walks_over_another_tenant_s_rows(bench: Bench) -> None:
    """Each is found by a key that holds the namespace: SQLite searches, and never scans."""
    cache = bench.open()
    cache.update(Request(QUESTION, namespace="me"), "mine")
    database: Any = engine_of(cache).ledger._database
    cache.lookup(Request(SAME, namespace="me"))
    cache.lookup(Request("who pays", namespace="me"))
    plans = []
    with sqlite3.connect(bench.path / "ledger.sqlite3") as connection:
        for query in database._compiled.values():
            values = [query.defaults.get(name) for name in query.names]
            plans += connection.execute(f"EXPLAIN QUERY PLAN {query.sql}", values).fetchall()
    told = [plan[3] for plan in plans]
    assert len(told) >= 5
    assert not [one for one in told if one.startswith("SCAN") and "CONSTANT" not in one], told
