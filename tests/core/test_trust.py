"""What keeps wrong answers from being served, and says how many were, through the cache alone."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import Bench
from fakes import MARGINS, Async, PlacedEmbedder, Sync, calibrated
from semcache_core import Hit, Request, SemanticCache, SemcacheError, cli
from semcache_core._utils.intervals import NOTHING
from semcache_core.decision.same_answer import answer_digest
from semcache_core.errors import RequestError
from semcache_core.quality.hubs import MIN_ASKED
from semcache_core.quality.verdicts import Verdict
from semcache_core.request import key_of
from semcache_core.testing import engine_of, run_background_round
from typer.testing import CliRunner

Q, PARAPHRASE = "how to reset my password", "my password how to reset"
NAMES = [f"{a}{b}" for a in "bcdfg" for b in "hjklm"]
PLACES: dict[str, float | tuple[float, int]] = {
    "left": 0.0,
    "middle": 16.5,  # .9588 of both
    "right": 33.0,
    "close": 3.0,
    "closer": 2.0,
    "edge": 24.0,  # .9135 of the left one, just above the threshold
    "uncertain": 30.0,  # .8660, between the thresholds for 10 % and for 2 %
    "hopeless": 40.0,  # .7660
    **{name: (24.5, 2 + n) for n, name in enumerate(NAMES)},  # .9100, in all directions
}

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture(params=[Sync, Async])
def form(request: pytest.FixtureRequest) -> type[Sync]:
    """Both forms of every method."""
    return request.param  # type: ignore[no-any-return]


def placed(bench: Bench, *, margins: bool = False, **options: Any) -> SemanticCache:
    if margins:
        calibrated(bench.artefact, weights=MARGINS)
    return bench.open(embedder=PlacedEmbedder(PLACES), **options)


def round_of(cache: SemanticCache) -> None:
    run_background_round(cache)


class TestOtherAnswersNearby:
    @pytest.mark.parametrize(("second", "hits"), [("one", True), (" ONE!", True), ("two", False)])
    async def test_between_two_stored_questions_it_is_a_hit_only_if_they_have_one_answer(
        self, second: str, hits: bool, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, margins=True))
        await call.get_or_create(Request("left"), "one")
        await call.get_or_create(Request("right"), second)
        explained = await call("explain", Request("middle"))
        hit = await call("lookup", Request("middle"))
        assert (hit is not None) == (explained.hit is not None) == hits
        if hits:
            assert hit.response == "one"
            assert explained.candidates[0].margin == MARGINS.widest
        else:
            assert "questions with different answers are stored about equally near" in str(
                explained
            )
            assert explained.candidates[0].margin < 0.01

    async def test_the_same_in_other_words_is_for_the_apps_own_judge_and_only_where_it_is_near(
        self, form: type[Sync], bench: Bench
    ) -> None:
        asked: list[tuple[str, str]] = []

        def same(one: str, other: str, /) -> bool:
            asked.append((one, other))
            return True

        call = form(placed(bench, margins=True, same_answer=same))
        await call.get_or_create(Request("left"), "one")
        await call.get_or_create(Request("right"), "the first")
        await call.get_or_create(Request("nothing like them"), "else")
        assert asked == [("one", "the first")]
        assert await call("lookup", Request("middle")) is not None

    async def test_a_judge_that_fails_makes_it_another_answer_and_never_fails_an_update(
        self, form: type[Sync], bench: Bench
    ) -> None:
        def same(one: str, other: str, /) -> bool:
            raise RuntimeError("the judge is down")

        cache = placed(bench, margins=True, same_answer=same)
        call = form(cache)
        await call.get_or_create(Request("left"), "one")
        assert await call("lookup", Request("right")) is None
        assert await call("update", Request("right"), "two") == 2
        assert await call("lookup", Request("middle")) is None
        assert cache.stats().failures == {}

    async def test_it_is_the_answer_that_is_compared_where_the_response_wraps_it(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, margins=True))
        for question, wrapped in (("left", '{"id": 1, "text": "one"}'), ("right", "{}")):
            assert await call("lookup", Request(question)) is None
            await call("update", Request(question), wrapped, answer="one")
        hit = await call("lookup", Request("middle"))
        assert hit is not None and hit.response == '{"id": 1, "text": "one"}'

    async def test_the_same_response_around_another_answer_is_another_answer(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, margins=True))
        for question, answer in (("left", "one"), ("right", "two")):
            await call("lookup", Request(question))
            await call("update", Request(question), "wrapped", answer=answer)
        assert await call("lookup", Request("middle")) is None

    async def test_rivals_and_answers_of_another_scope_or_tenant_do_not_count(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, margins=True))
        await call.get_or_create(Request("left"), "one")
        await call.get_or_create(Request("right", scope="s"), "two")
        await call.get_or_create(Request("right", namespace="n"), "two")
        assert await call("lookup", Request("middle")) is not None


class TestFeedback:
    async def test_a_wrong_answer_is_never_again_given_to_that_question(
        self, form: type[Sync], bench: Bench
    ) -> None:
        cache, other = bench.open(), bench.open()
        call = form(cache)
        entry_id = await call("update", Request(Q), "answer")
        assert await call("lookup", Request(PARAPHRASE)) is not None
        await call("feedback", entry_id)
        for one in (cache, other, bench.open()):
            assert await form(one)("lookup", Request(PARAPHRASE)) is None
            explained = await form(one)("explain", Request(PARAPHRASE))
            assert "answered this question wrongly before" in explained.reason
        assert cache.lookup(Request(Q)) is not None
        for _ in range(50):  # not by any later praise either
            engine_of(cache).verdicts.judge(
                Verdict("default", entry_id, PARAPHRASE, Q, 1.0, 0.98, True, "feedback", 1.0),
                key_of(Request(PARAPHRASE), "default").exact,
            )
        assert await call("lookup", Request(PARAPHRASE)) is None

    async def test_the_right_answer_then_takes_its_place(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open())
        entry_id = await call("update", Request(Q), "wrong")
        assert await call.get_or_create(Request(PARAPHRASE), "right") == "wrong"
        await call("feedback", entry_id)
        for _ in range(2):
            assert await call.get_or_create(Request(PARAPHRASE), "right") == "right"
        assert (await call("lookup", Request(Q))).response == "wrong"

    async def test_other_questions_may_still_be_answered_but_need_more(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench))
        entry_id = await call("update", Request("left"), "answer")
        assert await call("lookup", Request("edge")) is not None
        assert await call("lookup", Request("close")) is not None
        await call("feedback", entry_id)
        assert await call("lookup", Request("closer")) is not None
        assert await call("lookup", Request("edge")) is None
        assert "given wrong answers before" in (await call("explain", Request("edge"))).reason

    async def test_praise_makes_nothing_worse(self, form: type[Sync], bench: Bench) -> None:
        call = form(placed(bench))
        entry_id = await call("update", Request("left"), "answer")
        asked = [Request(question) for question in ("left", "close", "edge")]
        before = [await call("lookup", request) for request in asked]
        for request in asked:
            await call("feedback", entry_id, correct=True, request=request)
        await call("feedback", entry_id, True)
        assert [await call("lookup", request) for request in asked] == before

    async def test_praise_takes_a_doubt_back(self, form: type[Sync], bench: Bench) -> None:
        call = form(placed(bench))
        entry_id = await call("update", Request("left"), "answer")
        assert await call("lookup", Request("close")) is not None
        await call("feedback", entry_id)
        assert await call("lookup", Request("edge")) is None
        assert await call("lookup", Request("closer")) is not None
        for _ in range(60):
            await call("feedback", entry_id, correct=True, request=Request("closer"))
        assert await call("lookup", Request("edge")) is not None
        assert await call("lookup", Request("close")) is None

    @pytest.mark.parametrize("named", [False, True])
    async def test_an_answer_that_is_wrong_for_its_own_question_is_forgotten(
        self, named: bool, form: type[Sync], bench: Bench
    ) -> None:
        cache = bench.open()
        call = form(cache)
        entry_id = await call("update", Request(Q), "wrong")
        if named:  # though another question was the last that it answered by meaning
            await call("lookup", Request(PARAPHRASE))
        await call("feedback", entry_id, correct=True, request=Request(Q) if named else None)
        assert await call("lookup", Request(Q)) is not None
        await call("feedback", entry_id, request=Request(Q) if named else None)
        assert await call("lookup", Request(Q)) is None
        assert await call("lookup", Request(PARAPHRASE)) is None
        assert cache.stats().entries == 0

    async def test_it_is_about_the_request_given_else_about_the_last_one_answered(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench))
        entry_id = await call("update", Request("left"), "answer")
        for question in ("close", "closer"):
            bench.clock.now += 1
            assert await call("lookup", Request(question)) is not None
        await call("feedback", entry_id, request=Request("close"))
        assert await call("lookup", Request("close")) is None
        assert await call("lookup", Request("closer")) is not None
        await call("feedback", entry_id)
        assert await call("lookup", Request("closer")) is None

    async def test_a_hit_of_another_process_is_known_once_it_is_written(
        self, form: type[Sync], bench: Bench
    ) -> None:
        one, other = form(bench.open()), form(bench.open())
        entry_id = await one("update", Request(Q), "answer")
        await one("lookup", Request(PARAPHRASE))
        with pytest.raises(RequestError):
            await other("feedback", entry_id, request=Request(PARAPHRASE))
        run_background_round(one.cache)
        await other("feedback", entry_id, request=Request(PARAPHRASE))
        assert await one("lookup", Request(PARAPHRASE)) is None

    @pytest.mark.parametrize(
        "asked",
        [
            Request("never asked"),
            Request(PARAPHRASE, scope="s"),
            Request(PARAPHRASE, namespace="n"),
        ],
    )
    async def test_a_request_that_it_never_answered_is_refused(
        self, asked: Request, form: type[Sync], bench: Bench
    ) -> None:
        cache = bench.open()
        call = form(cache)
        entry_id = await call("update", Request(Q), "answer")
        await call("update", Request(Q, asked.scope, asked.namespace), "their answer")
        entry_id = await call("update", Request(Q), "answer")
        assert await call("lookup", Request(PARAPHRASE)) is not None
        with pytest.raises(RequestError, match=r"not known to have answered.*leave it out"):
            await call("feedback", entry_id, request=asked)
        assert await call("lookup", Request(PARAPHRASE)) is not None
        assert cache.stats().feedback == 0

    @pytest.mark.parametrize("entry_id", [99, 0, -1])
    async def test_an_unknown_entry_is_refused(
        self, entry_id: int, form: type[Sync], bench: Bench
    ) -> None:
        with pytest.raises(RequestError, match=rf"no entry {entry_id}; pass the entry_id of a hit"):
            await form(bench.open())("feedback", entry_id)

    async def test_what_was_said_is_exported_for_training(
        self, form: type[Sync], bench: Bench, tmp_path: Path
    ) -> None:
        call = form(bench.open())
        entry_id = await call("update", Request(Q), "answer")
        await call("lookup", Request(PARAPHRASE))
        await call("feedback", entry_id)
        assert call.cache.stats().feedback == 1
        file = tmp_path / "pairs.jsonl"
        command = ["export", str(file), "--feedback", "--path", str(bench.path)]
        assert CliRunner().invoke(cli.app, command).exit_code == 0
        assert json.loads(file.read_text()) == {
            "prompt": PARAPHRASE,
            "other": Q,
            "same_answer": 0,
        }

    async def test_a_complaint_of_one_tenant_or_scope_is_nothing_to_the_others(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench))
        others = [Request("left", scope="s"), Request("left", namespace="n")]
        entry_id = await call("update", Request("left"), "answer")
        for request in others:
            await call("update", request, "answer")
        await call("lookup", Request("edge"))
        await call("feedback", entry_id)
        assert await call("lookup", Request("edge")) is None
        for asked in (Request("edge", scope="s"), Request("edge", namespace="n")):
            assert await call("lookup", asked) is not None

    async def test_who_is_known_to_be_wrong_does_not_stand_in_the_way_of_others(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, margins=True))
        wrong = await call("update", Request("left"), "one")
        assert await call("lookup", Request("middle")) is not None
        await call("update", Request("right"), "two")
        assert await call("lookup", Request("middle")) is None
        await call("feedback", wrong, request=Request("middle"))
        hit = await call("lookup", Request("middle"))
        assert hit is not None and hit.response == "two"


class TestShadow:
    async def test_nothing_by_meaning_is_served_and_the_same_question_is(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open(shadow=True))
        await call("update", Request(Q), "answer")
        assert await call("lookup", Request(PARAPHRASE)) is None
        assert (await call("lookup", Request(Q))).kind == "exact"
        explained = await call("explain", Request(PARAPHRASE))
        assert explained.hit is None
        assert "near enough, but shadow mode serves nothing by meaning" in explained.reason
        stats = call.cache.stats()
        assert (stats.withheld, stats.semantic_hits, stats.misses) == (1, 0, 1)

    async def test_what_would_have_been_served_is_judged_by_the_update_that_follows(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, shadow=True))
        await call("update", Request("left"), "one")
        for question, answer in (("close", "One."), ("edge", "two"), ("else", "three")):
            assert await call.get_or_create(Request(question), answer) == answer
        measured = call.cache.stats().measured
        assert (measured.n, measured.wrong, measured.error) == (2, 1, 0.5)
        judged = engine_of(call.cache).verdicts.judged()
        assert [(one.asked, one.stored, one.correct, one.source) for one in judged] == [
            ("close", "left", True, "shadow"),
            ("edge", "close", False, "shadow"),
        ]

    async def test_without_an_update_nothing_is_judged(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open(shadow=True))
        await call("update", Request(Q), "answer")
        await call("lookup", Request(PARAPHRASE))
        await call("update", Request(PARAPHRASE, scope="s"), "other")
        await call("update", Request(PARAPHRASE, namespace="n"), "other")
        assert call.cache.stats().measured.n == 0


class TestAudits:
    async def test_at_a_rate_of_1_every_hit_by_meaning_is_withheld_once_and_judged(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, audit_rate=1.0))
        await call("update", Request("left"), "one")
        for question, answer in (("close", "one"), ("edge", "two")):
            assert await call.get_or_create(Request(question), answer) == answer
            assert await call.get_or_create(Request(question), "not called") == answer
        stats = call.cache.stats()
        assert (stats.withheld, stats.semantic_hits, stats.exact_hits) == (2, 0, 2)
        assert (stats.measured.n, stats.measured.wrong) == (2, 1)
        assert stats.failures == {}

    async def test_at_a_rate_of_0_nothing_is_ever_withheld(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open())
        await call("update", Request(Q), "answer")
        for _ in range(50):
            assert await call("lookup", Request(PARAPHRASE)) is not None
        stats = call.cache.stats()
        assert (stats.withheld, stats.measured.n, stats.measured.error) == (0, 0, None)

    def test_who_asks_the_same_at_once_pays_for_one_audit(self, bench: Bench) -> None:
        cache = bench.open(audit_rate=1.0)
        cache.update(Request(Q), "answer")
        barrier, calls = threading.Barrier(8), list[int]()

        def compute() -> str:
            calls.append(1)
            return "answer"

        def ask() -> None:
            barrier.wait(30)
            assert cache.get_or_create(Request(PARAPHRASE), compute) == "answer"

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(calls), cache.stats().measured.n) == (1, 1)

    async def test_an_answer_found_wrong_is_as_one_complained_of(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, audit_rate=1.0))
        await call("update", Request("left"), "one")
        for question in ("close", "edge"):
            assert await call("lookup", Request(question), audits=True) is not None
        await call("audited", Request("close"), "two")
        audits_no_more = form(placed(bench))
        assert await audits_no_more("lookup", Request("close")) is None
        assert await audits_no_more("lookup", Request("edge")) is None  # for its doubt
        assert await audits_no_more("lookup", Request("closer")) is not None

    async def test_what_was_measured_survives_opening_the_path_again(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, audit_rate=1.0))
        await call("update", Request("left"), "one")
        await call.get_or_create(Request("close"), "one")
        await call.get_or_create(Request("edge"), "two")
        before = call.cache.stats().measured
        await call("close")
        again = placed(bench).stats()
        assert again.measured == before
        assert (again.withheld, before.n, before.wrong) == (0, 2, 1)

    async def test_a_hit_may_be_given_and_audited_behind_it(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open(audit_rate=1.0))
        await call("update", Request(Q), "answer")
        hit = await call("lookup", Request(PARAPHRASE), audits=True)
        assert hit is not None and hit.audited and hit.response == "answer"
        await call("audited", Request(PARAPHRASE), "another")
        stats = call.cache.stats()
        assert (stats.measured.n, stats.measured.wrong, stats.entries) == (1, 1, 1)
        assert (stats.semantic_hits, stats.withheld) == (1, 0)
        assert await call("lookup", Request(PARAPHRASE), audits=True) is None
        assert (await call("lookup", Request(Q), audits=True)).audited is False

    async def test_many_wrong_ones_raise_the_threshold_and_right_ones_bring_it_back(
        self, form: type[Sync], bench: Bench, warnings_of: Any
    ) -> None:
        call = form(bench.open(audit_rate=1.0))
        calibrated_at = call.cache.stats().threshold

        async def asked_otherwise(n: int, answer: str) -> None:
            words = f"{chr(97 + n % 26)}x {chr(97 + n // 26)}y zz"
            await call("update", Request(words), "answer")
            turned = Request(" ".join(reversed(words.split())))
            assert await call.get_or_create(turned, answer) == answer

        for n in range(30):
            await asked_otherwise(n, "another")
            if call.cache.stats().threshold == NOTHING:
                break
        assert call.cache.stats().threshold == NOTHING
        assert len(warnings_of("serving nothing by meaning")) == 1

        await call("update", Request(Q), "answer")
        explained = await call("explain", Request(PARAPHRASE))
        assert explained.hit is None and explained.threshold == NOTHING
        assert "the audit raised the threshold" in explained.reason
        assert "nothing is served by meaning for now" in str(explained)
        assert await call("lookup", Request(PARAPHRASE)) is None
        assert (await call("lookup", Request(Q))).kind == "exact"

        for n in range(30, 200):
            await asked_otherwise(n, "Answer.")
            if call.cache.stats().threshold == calibrated_at:
                break
        assert call.cache.stats().threshold == calibrated_at
        assert (await call("explain", Request(PARAPHRASE))).hit is not None


class ScriptedVerifier:
    """A verifier that says what it is told to."""

    def __init__(self, verdict: float | Exception) -> None:
        self.verdict = verdict
        self.asked: list[tuple[str, str, str]] = []

    def verify(self, asked: str, stored: str, response: str) -> float:
        self.asked.append((asked, stored, response))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


class TestVerifier:
    @pytest.mark.parametrize(
        ("verdict", "serves", "counted"),
        [(0.95, True, "accepted"), (0.5, False, "refused"), (OSError("down"), False, "failed")],
    )
    async def test_in_the_uncertain_band_its_yes_serves_and_all_else_is_a_miss(
        self,
        verdict: float | Exception,
        serves: bool,
        counted: str,
        form: type[Sync],
        bench: Bench,
    ) -> None:
        verifier = ScriptedVerifier(verdict)
        call = form(placed(bench, verifier=verifier))
        await call("update", Request("left"), "wrapped", answer="one")
        hit = await call("lookup", Request("uncertain"))
        assert (hit is not None) == serves
        assert verifier.asked == [("uncertain", "left", "one")]
        counts = call.cache.stats().verification
        assert counts is not None
        assert (counts.asked, getattr(counts, counted), counts.calls) == (1, 1, 1)
        if hit is not None:
            assert (hit.kind, hit.response) == ("semantic", "wrapped")
            assert hit.probability < (call.cache.stats().threshold or 0)
            explained = await call("explain", Request("uncertain"))
            assert "the verifier agreed" in explained.reason

    @pytest.mark.parametrize("question", ["left", "close", "hopeless", "nowhere at all"])
    async def test_it_is_not_asked_where_the_calibration_is_sure(
        self, question: str, form: type[Sync], bench: Bench
    ) -> None:
        verifier = ScriptedVerifier(1.0)
        call = form(placed(bench, verifier=verifier))
        await call("update", Request("left"), "one")
        hit = await call("lookup", Request(question))
        assert (hit is not None) == (question in ("left", "close"))
        assert verifier.asked == []

    async def test_what_it_let_through_can_be_complained_of_and_audited(
        self, form: type[Sync], bench: Bench
    ) -> None:
        verifier = ScriptedVerifier(1.0)
        call = form(placed(bench, verifier=verifier))
        entry_id = await call("update", Request("left"), "one")
        assert await call("lookup", Request("uncertain")) is not None
        await call("feedback", entry_id)
        assert await call("lookup", Request("uncertain")) is None
        audited = form(placed(bench, verifier=verifier, audit_rate=1.0))
        await audited("update", Request("right", scope="s"), "one")
        await audited.get_or_create(Request("hopeless", scope="s"), "one")
        judged = engine_of(audited.cache).verdicts.judged(sources=("audit",))
        assert [(one.asked, one.correct) for one in judged] == [("hopeless", True)]

    def test_without_one_nothing_is_counted(self, bench: Bench) -> None:
        assert bench.open().stats().verification is None


SECRET = "hunterseven"


def redacted(text: str) -> str:
    return text.replace(SECRET, "<PASSWORD>")


def _holds(directory: Path, secret: bytes) -> list[str]:
    return [str(f) for f in directory.rglob("*") if f.is_file() and secret in f.read_bytes()]


class TestAdmission:
    async def test_a_refused_answer_is_not_stored_and_still_the_answer(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open(admit=lambda request, response: response != "sorry"))
        assert await call("update", Request(Q), "sorry") is None
        for _ in range(2):
            assert await call.get_or_create(Request(Q), "sorry") == "sorry"
        stats = call.cache.stats()
        assert (stats.refused, stats.entries, stats.updates, stats.failures) == (3, 0, 0, {})
        assert await call("update", Request(Q), "answer") == 1

    async def test_a_response_is_stored_redacted(self, form: type[Sync], bench: Bench) -> None:
        call = form(bench.open(redact=redacted))
        told = f"it is {SECRET}"
        assert await call.get_or_create(Request(Q), told) == told
        for question in (Q, PARAPHRASE):
            assert await call.get_or_create(Request(question), told) == "it is <PASSWORD>"

    async def test_a_question_that_redaction_changes_is_not_stored(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open(redact=redacted))
        asked = Request(f"is {SECRET} my password")
        for _ in range(2):
            assert await call.get_or_create(asked, "answer") == "answer"
        assert await call("lookup", asked) is None
        assert (call.cache.stats().refused, call.cache.stats().entries) == (2, 0)

    async def test_nothing_that_was_redacted_is_anywhere_in_the_caches_files(
        self, form: type[Sync], bench: Bench
    ) -> None:
        asked = f"my {SECRET} how to reset"
        places = {Q: 0.0, asked: 3.0, "plain": 5.0}
        options: dict[str, Any] = {"embedder": PlacedEmbedder(places), "redact": redacted}
        call = form(bench.open(**options, same_answer=lambda one, other: False))
        entry_id = await call("update", Request(Q), f"say {SECRET}", answer=f"it: {SECRET}")
        assert await call("update", Request(asked), "answer") is None
        assert await call("lookup", Request(asked)) is not None
        await call("explain", Request(asked))
        with pytest.raises(RequestError):
            await call("feedback", entry_id, request=Request(asked))
        assert await call("lookup", Request("plain")) is not None
        await call("feedback", entry_id)
        for more in ({"shadow": True}, {"audit_rate": 1.0}):
            other = form(bench.open(**options, **more))
            for question in (asked, "plain"):
                await other.get_or_create(Request(question), f"also {SECRET}")
            await other("lookup", Request(asked), audits=True)
            await other("audited", Request(asked), f"really {SECRET}")
        for cache in bench.opened:
            engine_of(cache).retriever.count_requested.set()  # so that the index is written too
            round_of(cache)
        secrets = [SECRET.encode(), answer_digest(f"it: {SECRET}"), answer_digest(f"also {SECRET}")]
        assert _holds(bench.path, answer_digest("it: <PASSWORD>")) != []
        for secret in secrets:
            assert _holds(bench.path, secret) == []
        for cache in bench.opened:
            cache.close()
        for secret in secrets:
            assert _holds(bench.path, secret) == []

    async def test_a_redacted_answer_is_compared_as_it_is_stored(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(bench.open(audit_rate=1.0, redact=redacted))
        await call("update", Request(Q), f"it is {SECRET}")
        assert await call("lookup", Request(PARAPHRASE), audits=True) is not None
        await call("audited", Request(PARAPHRASE), f"it is {SECRET}")
        await call.get_or_create(Request(f"{PARAPHRASE} ?"), f"it is {SECRET}")
        measured = call.cache.stats().measured
        assert (measured.n, measured.wrong) == (2, 0)

    @pytest.mark.parametrize("hook", ["admit", "redact"])
    async def test_a_hook_that_fails_stores_nothing_and_the_app_goes_on(
        self, hook: str, form: type[Sync], bench: Bench
    ) -> None:
        def fail(*_: object) -> Any:
            raise ValueError("a bug of the app")

        call = form(bench.open(**{hook: fail}))
        with pytest.raises(SemcacheError, match=f"{hook} failed with ValueError"):
            await call("update", Request(Q), "answer")
        assert await call.get_or_create(Request(Q), "answer") == "answer"
        assert (call.cache.stats().entries, call.cache.stats().failures) == (0, {"update": 1})


class TestConfirmations:
    async def _ask(self, call: Sync, question: str, writer: str | None, **of: Any) -> Hit | None:
        """As an app does: look up, and store what the model says where that misses."""
        request = Request(question, writer=writer, **of)
        hit: Hit | None = await call("lookup", request)
        if hit is None:
            await call("update", request, "answer")
        return hit

    async def test_a_strangers_answer_is_served_by_meaning_once_others_were_given_the_same(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, confirmations=2))
        assert await self._ask(call, "left", "a") is None
        assert await self._ask(call, "close", "a") is not None  # one's own, always
        assert await self._ask(call, "left", "b") is not None  # an exact repeat, always
        assert await self._ask(call, "close", "b") is None  # confirmed once by this
        explained = await call("explain", Request("closer", writer="c"))
        assert "to its own writer, so far" in explained.reason
        assert await self._ask(call, "closer", "c") is None  # and twice
        assert await self._ask(call, "edge", "d") is not None
        assert await self._ask(call, "edge", None) is not None

    async def test_nobody_confirms_nothing(self, form: type[Sync], bench: Bench) -> None:
        call = form(placed(bench, confirmations=1))
        for question in ("left", "close", "closer", "edge"):
            assert await self._ask(call, question, None) is None
        assert await self._ask(call, "middle", "a") is None

    async def test_the_same_writer_confirms_once(self, form: type[Sync], bench: Bench) -> None:
        call = form(placed(bench, confirmations=2))
        await self._ask(call, "left", "a")
        await call("update", Request("close", writer="b"), "answer")
        for question in ("closer", "edge"):
            request = Request(question, writer="b")
            await call("lookup", request)
            await call("update", request, "answer")
        assert await self._ask(call, "middle", "c") is None

    async def test_those_of_another_tenant_or_scope_do_not_count(
        self, form: type[Sync], bench: Bench
    ) -> None:
        call = form(placed(bench, confirmations=1))
        for of in ({}, {"namespace": "n"}, {"scope": "s"}):
            assert await self._ask(call, "left", "a", **of) is None
        assert await self._ask(call, "close", "b", namespace="n") is None
        assert await self._ask(call, "edge", "c", namespace="n") is not None
        assert await self._ask(call, "edge", "c") is None
        assert await self._ask(call, "edge", "c", scope="s") is None

    async def test_another_answer_confirms_nothing(self, form: type[Sync], bench: Bench) -> None:
        call = form(placed(bench, confirmations=1))
        await self._ask(call, "left", "a")
        request = Request("close", writer="b")
        assert await call("lookup", request) is None
        await call("update", request, "quite another")
        assert await self._ask(call, "closer", "c") is None


class TestHubs:
    async def test_an_entry_that_answers_unlike_questions_is_then_served_only_exactly(
        self, form: type[Sync], bench: Bench, warnings_of: Any
    ) -> None:
        call = form(placed(bench))
        entry_id = await call("update", Request("left"), "answer")
        for name in NAMES[:MIN_ASKED]:
            assert await call("lookup", Request(name)) is not None
        run_background_round(call.cache)
        assert len(warnings_of(f"entry {entry_id} answered {MIN_ASKED} questions")) == 1
        for name in (NAMES[0], NAMES[-1], "close"):
            assert await call("lookup", Request(name)) is None
        assert "only exactly" in (await call("explain", Request("close"))).reason
        assert (await call("lookup", Request("left"))).response == "answer"
        assert await form(placed(bench))("lookup", Request("close")) is None

    @pytest.mark.parametrize(
        "asked",
        [NAMES[: MIN_ASKED - 1], [NAMES[0]] * 20, ["close", "closer", "middle", "edge"] * 5],
        ids=["too few", "one over and over", "alike"],
    )
    def test_an_ordinary_one_is_served_on(self, asked: list[str], bench: Bench) -> None:
        cache = placed(bench)
        cache.update(Request("left"), "answer")
        for name in asked:
            assert cache.lookup(Request(name)) is not None
        run_background_round(cache)
        assert cache.lookup(Request("close")) is not None

    def test_many_questions_on_one_matter_make_no_hub(self, bench: Bench) -> None:
        on_one_matter = {name: 20.0 + n / 10 for n, name in enumerate(NAMES)}
        cache = bench.open(embedder=PlacedEmbedder({"left": 0.0, **on_one_matter}))
        cache.update(Request("left"), "answer")
        for name in on_one_matter:
            assert cache.lookup(Request(name)) is not None
        run_background_round(cache)
        assert cache.lookup(Request(NAMES[0])) is not None

    def test_questions_of_several_rounds_add_up(self, bench: Bench) -> None:
        cache = placed(bench)
        cache.update(Request("left"), "answer")
        for name in NAMES[:MIN_ASKED]:
            assert cache.lookup(Request(name)) is not None
            run_background_round(cache)
        assert cache.lookup(Request("close")) is None

    def test_a_hub_of_one_tenant_is_an_ordinary_entry_to_another(self, bench: Bench) -> None:
        cache = placed(bench)
        tenants = [Request("left"), Request("left", namespace="n"), Request("left", scope="s")]
        for request in tenants:
            cache.update(request, "answer")
        for name in NAMES[:MIN_ASKED]:
            assert cache.lookup(Request(name)) is not None
        run_background_round(cache)
        assert cache.lookup(Request("close")) is None
        assert cache.lookup(Request("close", namespace="n")) is not None
        assert cache.lookup(Request("close", scope="s")) is not None

    def test_an_entry_that_went_before_it_was_looked_at_is_no_error(
        self, bench: Bench, warnings_of: Any
    ) -> None:
        cache = placed(bench)
        cache.update(Request("left"), "answer")
        assert cache.lookup(Request("close")) is not None
        cache.clear()
        run_background_round(cache)
        assert warnings_of() == []
