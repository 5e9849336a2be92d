"""Answers that change in the middle of a stream, with and without an audit."""

import csv
import itertools
import json
import random
from pathlib import Path
from typing import Any

import drift
import pytest
from fakes import WordEmbedder, calibration
from semcache_core.decision.scoring import Neighbour
from semcache_core.evaluation.policies import MaxErrorRate
from semcache_core.evaluation.replay import Arrival
from semcache_core.training.calibration.streams import Remembering

INTENTS = {
    "lock my card right now please": "lock",
    "raise our daily withdrawal limit again": "limit",
}


def questions(wordings: int) -> list[Arrival]:
    """Of each intent the same words in another order, which are one to WordEmbedder."""
    return [
        Arrival(" ".join(words), intent)
        for text, intent in INTENTS.items()
        for words in itertools.islice(itertools.permutations(text.split()), wordings)
    ]


@pytest.fixture(scope="module")
def seen() -> drift.Seen:
    return drift.one_stream(questions(400), Remembering(WordEmbedder()), calibration(), 0)


def test_from_the_middle_on_about_half_of_the_answers_are_new() -> None:
    asked = questions(400)
    changed = drift.changing(asked)
    assert [one.question for one in changed] == [one.question for one in asked]
    assert changed[:400] == asked[:400]
    new = [one.answer_id for one in changed[400:]].count("limit, new")
    assert 150 < new < 250
    assert drift.changing(asked) == changed


def test_left_alone_half_of_the_hits_are_wrong_ever_after(seen: drift.Seen) -> None:
    for bound in drift.BOUNDS:
        alone = seen[bound, False]
        assert alone["before"]["error"] == 0
        assert alone["before"]["served"] == pytest.approx(1 - 2 / 400)
        assert 0.3 < alone["last quarter"]["error"] < 0.7


def test_the_audit_notices_and_stops_serving(seen: drift.Seen) -> None:
    for bound in drift.BOUNDS:
        audited = seen[bound, True]
        assert audited["alarms before"] == 0
        assert 0 < audited["hits until noticed"] < 400
        assert audited["last quarter"] == {"served": 0.0, "error": None}


def test_an_audited_hit_is_answered_by_the_model(seen: drift.Seen) -> None:
    for bound in drift.BOUNDS:
        assert 0.9 < seen[bound, True]["before"]["served"] < 0.99


def audited(bound: float, chance: random.Random) -> drift.Audited:
    alone = MaxErrorRate("made", calibration(), WordEmbedder(), bound)
    return drift.Audited(alone, {"my card": "a", "card my": "b"}, chance)


class Unlucky(random.Random):
    """Draws no hit for an audit, and thins out nothing."""

    def random(self) -> float:
        return 0.999


def test_what_the_raised_threshold_withholds_is_judged_and_what_is_served_is_not() -> None:
    policy = audited(0.02, Unlucky())
    candidate = Neighbour(0, "my card", 0, 0.99)
    for _ in range(50):
        assert policy.pick("card my", [candidate]) == candidate
    assert policy.audit.measured().n == 0
    for _ in range(20):
        policy.audit.add(1.0, False, weight=1 / drift.RATE)
    assert policy.alarms == [49]
    assert policy.pick("card my", [candidate]) is None
    assert policy.audit.measured().n == 1


def test_where_nothing_is_near_enough_nothing_is_judged() -> None:
    policy = audited(0.02, random.Random(0))
    assert policy.pick("card my", [Neighbour(0, "my card", 0, 0.5)]) is None
    assert policy.audit.measured().n == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    rows = [(one.question, one.answer_id) for one in questions(20)]
    with (directory / drift.FILE).open("w", newline="") as file:
        csv.writer(file).writerows([("text", "category"), *rows])
    return directory


def study(data: Path, out: Path) -> dict[str, Any]:
    drift.main(["--data", str(data), "--seeds", "2", "--out", str(out)])
    return dict(json.loads(out.read_text()))


def test_every_arm_has_a_figure_for_each_seed_and_a_run_can_be_repeated(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = study(data, tmp_path / "one.json")
    assert results["data"]["requests"] == 40
    assert list(results["bounds"]) == ["0.02", "0.05"]
    for arms in results["bounds"].values():
        assert list(arms) == ["alone", "audited"]
        for arm in arms.values():
            for part in drift.PARTS:
                assert len(arm[part]["served"]["each"]) == len(arm[part]["error"]["each"]) == 2
        assert len(arms["audited"]["alarms before"]) == 2
    assert str(data) not in json.dumps(results)
    again = study(data, tmp_path / "again.json")
    assert {**again, "seconds": 0} == {**results, "seconds": 0}
    assert "| 5% | audited |" in capsys.readouterr().out


def test_the_table_says_in_how_many_orders_it_was_noticed() -> None:
    def one(hits: int | None) -> dict[str, Any]:
        part = {"served": 0.5, "error": 0.1}
        return {**dict.fromkeys(drift.PARTS, part), "alarms before": 1, "hits until noticed": hits}

    arms = [(bound, kept) for bound in drift.BOUNDS for kept in (False, True)]
    bounds = drift.over_seeds([dict.fromkeys(arms, one(hits)) for hits in (10, None)])
    printed = drift.table({"bounds": bounds})
    assert "| 10 (10 to 10) | 1 of 2 | 2 |" in printed
    assert "| - | - | - |" in printed


def test_a_missing_file_ends_the_run_by_its_text_and_keeps_the_results_before(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.json"
    out.write_text("the ones before")
    with pytest.raises(SystemExit, match=r"banking77_train.csv cannot be read"):
        drift.main(["--data", str(tmp_path), "--out", str(out)])
    assert out.read_text() == "the ones before"


def test_the_docstring_begins_with_what_it_is_and_gives_the_command() -> None:
    lines = (drift.__doc__ or "").splitlines()
    assert lines[0].endswith(".")
    assert lines[2].startswith("python studies/drift.py")
