"""Hits that are served although the model is to be asked: `lookup(audits=True)` and `audited`."""

from typing import Any

import pytest
from semcache_core import Hit, Request, SemanticCache, SemcacheError

ASK, PARAPHRASE = Request("how warm is it"), Request("is it how warm")


def served(cache: SemanticCache, request: Request = PARAPHRASE) -> Hit:
    cache.update(ASK, "quite warm")
    hit = cache.lookup(request, audits=True)
    assert hit is not None and hit.response == "quite warm"
    return hit


def judged(cache: SemanticCache) -> tuple[int, int]:
    measured = cache.stats().measured
    return measured.n, measured.wrong


@pytest.mark.parametrize(("answer", "wrong"), [("Quite warm!", 0), ("cold today", 1)])
def test_a_sampled_hit_is_served_and_judged_by_what_the_model_says(
    bench: Any, answer: str, wrong: int
) -> None:
    cache = bench.open(audit_rate=1.0)
    assert served(cache).audited
    assert judged(cache) == (0, 0)
    cache.audited(PARAPHRASE, answer)
    assert judged(cache) == (1, wrong)
    stats = cache.stats()
    assert (stats.entries, stats.semantic_hits, stats.withheld) == (1, 1, 0)
    again = cache.lookup(PARAPHRASE)  # withheld where nobody audits, or no longer served
    assert again is None


async def test_async_a_sampled_hit_is_served_and_judged(bench: Any) -> None:
    cache = bench.open(audit_rate=1.0)
    await cache.aupdate(ASK, "quite warm")
    hit = await cache.alookup(PARAPHRASE, audits=True)
    assert hit is not None and hit.audited
    await cache.aaudited(PARAPHRASE, "cold today")
    assert judged(cache) == (1, 1)


def test_it_can_be_complained_of_as_any_hit(bench: Any) -> None:
    cache = bench.open(audit_rate=1.0)
    cache.feedback(served(cache).entry_id)
    assert cache.lookup(PARAPHRASE, audits=True) is None


def test_without_a_rate_and_for_an_exact_repeat_no_hit_is_marked(bench: Any) -> None:
    assert not served(bench.open()).audited
    assert not served(bench.open(audit_rate=1.0), ASK).audited


def test_in_shadow_mode_it_is_withheld_all_the_same(bench: Any) -> None:
    cache = bench.open(shadow=True, audit_rate=1.0)
    cache.update(ASK, "quite warm")
    assert cache.lookup(PARAPHRASE, audits=True) is None
    assert cache.stats().withheld == 1
    cache.update(PARAPHRASE, "quite warm")
    assert judged(cache) == (1, 0)


def test_what_was_not_served_for_an_audit_judges_nothing(bench: Any) -> None:
    cache = bench.open()
    served(cache)
    cache.audited(PARAPHRASE, "cold today")
    cache.audited(Request("who are you"), "cold today")
    assert judged(cache) == (0, 0)


def test_one_audit_judges_once(bench: Any) -> None:
    cache = bench.open(audit_rate=1.0)
    served(cache)
    for _ in range(2):
        cache.audited(PARAPHRASE, "quite warm")
    assert judged(cache) == (1, 0)


def test_a_question_that_must_not_be_written_is_not_judged(bench: Any) -> None:
    def redact(text: str) -> str:
        return text.replace("is it how", "[NAME]")

    cache = bench.open(audit_rate=1.0, redact=redact)
    served(cache)
    cache.audited(PARAPHRASE, "cold today")
    assert judged(cache) == (0, 0)


def test_a_closed_cache_says_so(bench: Any) -> None:
    cache = bench.open()
    cache.close()
    with pytest.raises(SemcacheError, match="closed"):
        cache.audited(PARAPHRASE, "cold today")
