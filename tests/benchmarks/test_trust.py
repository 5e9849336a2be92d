"""What a bound is worth: the study end to end on made-up data, and how a promise is judged."""

import csv
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runner
import trust
from fakes import WordEmbedder, calibration
from semcache_core.training.calibration.streams import Decided
from semcache_core.training.data.records import Pair, write_pairs

WORDINGS = 8
"""Of each intent: the same words in another order, which are one to WordEmbedder."""
TRAP = ("card my lock please", "another intent")
INTENTS = {
    "lock my card please": "lock",
    "raise our withdrawal limit": "limit",
    "where is transfer pending": "transfer",
    "explain this foreign fee": "fee",
}


def questions() -> list[tuple[str, str]]:
    rows = [
        (" ".join(words), intent)
        for text, intent in INTENTS.items()
        for words in itertools.islice(itertools.permutations(text.split()), WORDINGS)
    ]
    return [*rows, TRAP]


def made_pairs() -> list[Pair]:
    texts = list(INTENTS)
    same = [Pair(f"so {text}", f"and {text}", 1) for text in texts]
    return [*same, *(Pair(f"so {one}", f"and {other}", 0) for one in texts for other in texts[:1])]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    for name in ("train", "test"):
        with (directory / f"banking77_{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *questions()])
    for name in ("mqp_dev", "qqp_test"):
        write_pairs(directory / f"{name}.jsonl", made_pairs())
    return directory


def run(data: Path, out: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patched:
        # the export, tested elsewhere, takes most of the time
        patched.setattr(trust, "untuned_of", lambda base: WordEmbedder())
        trust.main(
            ["--data", str(data), "--seeds", "3", "--orders", "2", "--out", str(out)],
        )
    return dict(json.loads(out.read_text()))


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(data, tmp_path_factory.mktemp("out") / "trust.json")


def test_every_policy_meets_the_same_arrivals_in_every_order(results: dict[str, Any]) -> None:
    arrivals = results["arrivals"]
    count = len(INTENTS) * WORDINGS + 1
    assert arrivals["data"]["requests"] == count
    assert list(arrivals["arms"]) == [
        *("threshold 0.90", "threshold 0.85"),
        *(f"best threshold, {bound}" for bound in ("0.01", "0.02", "0.05")),
        *(f"per-prompt learner, {bound}" for bound in ("0.01", "0.02", "0.05")),
        *(f"max_error_rate {bound}" for bound in ("0.01", "0.02", "0.05", "0.1")),
    ]
    for arm in arrivals["arms"].values():
        for share in ("served", "wrong_of_all", "wrong_of_served"):
            assert len(arm[share]["each"]) == 2
        for served, wrong in zip(arm["served"]["each"], arm["wrong_of_all"]["each"], strict=True):
            assert 0 <= wrong <= served <= 1


def test_a_fixed_threshold_serves_all_wordings_but_the_first_and_the_trap_wrongly(
    results: dict[str, Any],
) -> None:
    count = len(INTENTS) * WORDINGS + 1
    arm = results["arrivals"]["arms"]["threshold 0.90"]
    assert arm["served"]["mean"] == pytest.approx((count - len(INTENTS)) / count, abs=1e-4)
    # the trap is served wrongly, or is stored first and all of its wordings are served wrongly
    for wrong in arm["wrong_of_all"]["each"]:
        assert round(wrong * count) in (1, WORDINGS)
    assert (arm["bound"], arm["promised"], arm["within"]) == (None, None, None)


def test_each_promise_is_judged_by_the_share_that_it_is_about(results: dict[str, Any]) -> None:
    for name, arm in results["arrivals"]["arms"].items():
        if arm["bound"] is None:
            continue
        learner = name.startswith("per-prompt learner")
        assert arm["promised"] == ("wrong_of_all" if learner else "wrong_of_served")
        errors = arm[arm["promised"]]["each"]
        assert arm["within"] == sum(error is None or error <= arm["bound"] for error in errors)
        assert name.endswith(f"{arm['bound']:g}")


def test_thresholds_of_one_half_are_judged_on_the_other_of_every_set_and_of_all(
    results: dict[str, Any],
) -> None:
    for form in trust.FORMS:
        found = results["split"][form]
        assert list(found) == ["medical", "QQP", "Banking77", "all"]
        for bound in ("0.01", "0.02", "0.05", "0.1"):
            each = [found[name][bound]["served"] for name in found]
            assert [sum(seed) for seed in zip(*each[:-1], strict=True)] == each[-1]
            assert found["all"][bound]["streams"] == 3


def test_what_the_figures_depend_on_is_written_beside_them(
    results: dict[str, Any], data: Path
) -> None:
    assert results["artefact"]["name"] == "default"
    assert "medical" in results["artefact"]["calibrated_on"]
    assert results["base"]["fingerprint"] == WordEmbedder.fingerprint
    assert results["settings"] == {"seeds": 3, "orders": 2}
    assert {"hardware", "versions", "seconds"} <= set(results)
    assert str(data) not in json.dumps(results)


def test_a_run_can_be_repeated_and_ends_in_its_tables(
    results: dict[str, Any], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = run(data, tmp_path / "again.json")
    assert [again[part] for part in ("arrivals", "split")] == [
        results[part] for part in ("arrivals", "split")
    ]
    printed = capsys.readouterr().out
    assert "| per-prompt learner, 0.02 |" in printed
    assert "| medical | half missing | 2% |" in printed


def test_a_missing_file_ends_the_run_by_its_text_and_keeps_the_results_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "untuned_of", lambda base: WordEmbedder())
    out = tmp_path / "out.json"
    out.write_text("the ones before")
    with pytest.raises(SystemExit, match=r"banking77_train.csv cannot be read"):
        trust.main(["--data", str(tmp_path), "--out", str(out)])
    assert out.read_text() == "the ones before"


def decided(*asked: tuple[float, bool, bool]) -> Decided:
    """(probability, right, answerable) of each question asked."""
    probability, right, answerable = zip(*asked, strict=True)
    return Decided(
        *("made", np.array(probability), np.array(right), np.array(answerable)),
        question=np.arange(len(asked)),
    )


ONE_WRONG = decided((0.95, True, True), (0.91, False, False), (0.85, True, True), (0.7, True, True))
ALL_RIGHT = decided((0.95, True, True), (0.5, False, True), (0.4, False, False))


def kept(asked: list[Decided], threshold: float | None, bound: float = 0.02) -> dict[str, Any]:
    splits = [trust.Split({bound: threshold}, {"half missing": [one]}) for one in asked]
    return trust.kept(splits, "half missing", 0, bound)


def test_a_promise_is_judged_split_by_split() -> None:
    strict = kept([ONE_WRONG, ALL_RIGHT], 0.9)
    assert (strict["streams"], strict["within"], strict["served"]) == (2, 1, [2, 1])
    assert strict["error"]["each"] == [1 / 2, 0]
    # of those answerable: 1 of 3, 1 of 2
    assert strict["rightly_served"]["each"] == [1 / 3, 1 / 2]
    looser = kept([ONE_WRONG], 0.8, 0.1)
    assert looser["served"] == [3]
    assert looser["rightly_served"]["each"] == [2 / 3]


def test_where_no_threshold_keeps_the_bound_nothing_is_served_and_nothing_broken() -> None:
    nothing = kept([ONE_WRONG], None, 0.001)
    assert (nothing["served"], nothing["within"]) == ([0], 1)
    assert nothing["error"] == {"mean": None, "lowest": None, "highest": None, "each": [None]}
    assert nothing["rightly_served"]["mean"] == 0


def test_an_error_at_the_bound_is_within_it() -> None:
    assert trust.within([0.02, 0.0201, None, 0.0], 0.02) == 3


def test_a_spread_is_over_the_values_that_there_are() -> None:
    found = runner.spread([0.1, None, 0.3])
    assert found == {"mean": 0.2, "lowest": 0.1, "highest": 0.3, "each": [0.1, None, 0.3]}
    assert runner.shown_spread(found) == "20.00% (10.00% to 30.00%)"
    assert runner.shown_spread(runner.spread([None])) == "-"


def test_the_learner_draws_anew_in_every_order() -> None:
    tried = trust.contenders(WordEmbedder(), WordEmbedder(), calibration(), 7)
    learners = [one.arm.policy for one in tried if one.promised == "wrong_of_all"]
    assert [getattr(policy, "seed", None) for policy in learners] == [7, 7, 7]


def test_the_docstring_begins_with_what_it_is_and_gives_the_command() -> None:
    lines = (trust.__doc__ or "").splitlines()
    assert lines[0].endswith(".")
    assert lines[2].startswith("python studies/trust.py")
