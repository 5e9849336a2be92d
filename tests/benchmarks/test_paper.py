"""The worked studies, end to end on made-up data: what is measured, on what, and kept apart."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arms
import banking77
import intents
import numpy as np
import pytest
import qqp
import runner
from semcache_core.decision.calibration import load_calibration
from semcache_core.embedding.onnx import OnnxEmbedder
from semcache_core.embedding.wrappers import SentenceTransformerEmbedder
from semcache_core.errors import TrainingError
from semcache_core.training.calibration.calibrate import calibrate
from semcache_core.training.data.records import Pair, Question, read_pairs, write_pairs
from semcache_core.training.losses import TuningLoss
from tiny_models import FILLERS, KEYS, OTHERS, word_model

ARMS = ["untuned", "BCE", "SLD"]
BRIEF = ("--max-steps", "3", "--batch-size", "8", "--resamples", "20", "--threads", "1")
SUPPORT = (*BRIEF, "--unseen", "3", "--per-question", "1")
HEADER = ("text", "category")


@dataclass
class Watched:
    """One run of a study: what it wrote, and what each fit and each calibration was given."""

    results: dict[str, Any] = field(default_factory=dict)
    fits: list[tuple[list[Pair], Any]] = field(default_factory=list)
    given: list[dict[str, Any]] = field(default_factory=list)
    batches: list[list[Any]] = field(default_factory=list)
    calibrated_on: list[list[Pair]] = field(default_factory=list)

    def texts(self) -> set[str]:
        """Every question trained on."""
        return texts_of(self.fits[0][0])


def texts_of(pairs: Sequence[Pair]) -> set[str]:
    return {text for pair in pairs for text in (pair.prompt, pair.other)}


def export_nothing(patched: pytest.MonkeyPatch) -> None:
    """Arms use the torch model as it is: the export, tested elsewhere, takes most of the time."""
    models: dict[Path, Any] = {}
    patched.setattr(arms, "export_onnx", lambda model, out: models.update({out: model}))
    load = SimpleNamespace(load=lambda out: SentenceTransformerEmbedder(models[out]))
    patched.setattr(arms, "OnnxEmbedder", load)


def watch(study: Any, arguments: Sequence[object], out: Path, *, exported: bool = False) -> Watched:
    """Run a study as from the command line, looking over its shoulder."""
    seen = Watched()
    fit, step = arms.fit, TuningLoss.__call__

    def seen_fit(pairs: Sequence[Pair], model: Any, options: Any, **rest: Any) -> Any:
        seen.fits.append((list(pairs), options))
        seen.given.append(rest)
        seen.batches.append([])
        return fit(pairs, model, options, **rest)

    def seen_step(self: TuningLoss, batch: Any) -> Any:
        seen.batches[-1].append((batch.texts, batch.pairs.tolist(), batch.labels.tolist()))
        return step(self, batch)

    with pytest.MonkeyPatch.context() as patched:
        if not exported:
            export_nothing(patched)
        # the made-up intents are twelve
        patched.setattr(f"{calibrate.__module__}.MIN_ANSWERS", 3)
        patched.setattr(arms, "fit", seen_fit)
        patched.setattr(TuningLoss, "__call__", seen_step)
        if hasattr(study, "calibrate"):
            patched.setattr(
                study,
                "calibrate",
                lambda model, pairs, *rest, **named: (
                    seen.calibrated_on.append(list(pairs)),
                    calibrate(model, pairs, *rest, **named),
                )[1],
            )
        try:
            study.main([*map(str, arguments), "--out", str(out)])
        except SystemExit as error:  # which would end pytest, not the test
            pytest.fail(str(error))
    seen.results = json.loads(out.read_text())
    return seen


def overlapping_pairs(count: int, seed: int) -> list[Pair]:
    """The more words two questions share, the likelier is the same answer; some are hard."""
    chance = random.Random(seed)
    pairs = []
    for index in range(count):
        same = index % 2
        words = chance.sample(FILLERS, 5)
        kept = chance.choice((3, 4) if same else (2, 3))
        others = [*words[:kept], *chance.sample(OTHERS, 5 - kept)]
        pairs.append(Pair(" ".join(words), " ".join(others), same))
    return pairs


def questions_with_intents(each: int, seed: int) -> list[tuple[str, str]]:
    """Questions of an intent begin with its words; what follows comes in all intents."""
    chance = random.Random(seed)
    return [
        (" ".join([key, *FILLERS[2 * i : 2 * i + 2], *chance.sample(OTHERS, 2)]), f"to {key}")
        for i, key in enumerate(KEYS)
        for _ in range(each)
    ]


def write_csv(file: Path, rows: Sequence[tuple[str, str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([HEADER, *rows])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    word_model(directory / "bert", spread=0.3).save(str(directory / "tiny"))
    return directory / "tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the names and forms that the studies of QQP and of Banking77 read."""
    directory = tmp_path_factory.mktemp("data")
    test, calibration = overlapping_pairs(100, seed=1), overlapping_pairs(440, seed=2)
    leaks = [
        Pair(test[0].prompt + " ?", "filler1 filler2", 1),
        Pair("filler3 filler4", calibration[0].other, 0),
    ]
    write_pairs(directory / "qqp_train.jsonl", [*overlapping_pairs(80, seed=3), *leaks])
    leak = Pair("filler5 filler6", test[1].other, 0)
    write_pairs(directory / "qqp_calibration.jsonl", [*calibration, leak])
    write_pairs(directory / "qqp_test.jsonl", test)
    write_pairs(directory / "mqp_dev.jsonl", overlapping_pairs(50, seed=4))
    tested = questions_with_intents(8, seed=5)
    train = [*questions_with_intents(120, seed=6), (f"{tested[0][0]}?", tested[0][1])]
    write_csv(directory / "banking77_train.csv", train)
    write_csv(directory / "banking77_test.csv", tested)
    return directory


@pytest.fixture(scope="module")
def general(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    directory = tmp_path_factory.mktemp("general")
    arguments = (*BRIEF, "--base", base, "--data", data, "--work", directory)
    seen = watch(qqp, arguments, directory / "out.json", exported=True)
    seen.results["work"] = directory  # for the test of what lies there
    return seen


@pytest.fixture(scope="module")
def support(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Watched:
    arguments = (*SUPPORT, "--base", base, "--data", data)
    return watch(banking77, arguments, tmp_path_factory.mktemp("support") / "out.json")


@pytest.fixture(params=["general", "support"])
def any_study(request: pytest.FixtureRequest) -> Watched:
    seen: Watched = request.getfixturevalue(request.param)
    return seen


def is_figure(figure: dict[str, Any], low: float = 0, high: float = 1) -> bool:
    below, above = figure["interval"]
    return low <= below <= above <= high and low <= figure["value"] <= high


def test_results_say_how_they_were_made(any_study: Watched) -> None:
    results = any_study.results
    assert results["base"] == "tiny" and results["settings"]["seed"] == 0
    assert {"cpu", "cores"} <= results["hardware"].keys()
    assert {"python", "torch", "onnxruntime", "scikit-learn"} <= results["versions"].keys()
    assert results["settings"]["max_steps"] == 3 and results["settings"]["ranking"] == 0.3
    assert results["split"] and results["study"] and results["seconds"] >= 0
    assert list(results["arms"]) == ARMS


def test_results_hold_no_path_of_the_machine(any_study: Watched, base: Path, data: Path) -> None:
    written = json.dumps({k: v for k, v in any_study.results.items() if k != "work"})
    for path in (base.parent, data):
        assert str(path) not in written


def test_both_losses_see_the_same_pairs_in_the_same_batches(any_study: Watched) -> None:
    (bce_pairs, bce), (sld_pairs, sld) = any_study.fits
    assert bce_pairs == sld_pairs
    assert (bce.loss, sld.loss) == ("bce", "sld") and replace(bce, loss="sld") == sld
    assert len(any_study.batches[0]) == 3
    assert any_study.batches[0] == any_study.batches[1]


def test_the_results_name_the_training_of_each_tuned_arm(any_study: Watched) -> None:
    arms = any_study.results["arms"]
    assert arms["untuned"]["training"] is None
    bce, sld = arms["BCE"]["training"], arms["SLD"]["training"]
    assert (bce["loss"], sld["loss"]) == ("bce", "sld")
    assert bce["pairs_sha256"] == sld["pairs_sha256"]
    assert bce["steps"] == sld["steps"] == 3 and bce["seconds_per_100_steps"] > 0
    assert bce["losses"] != sld["losses"]


def test_no_question_of_the_qqp_test_is_trained_or_calibrated_on(
    general: Watched, data: Path
) -> None:
    tested = texts_of(read_pairs(data / "qqp_test.jsonl"))
    calibrated_on = texts_of(general.calibrated_on[0])
    assert not tested & calibrated_on
    # a closing question mark makes no other question
    assert not {text.rstrip(" ?") for text in general.texts()} & (tested | calibrated_on)
    rows = {"train": 80, "calibration": 440, "test": 100}
    assert general.results["data"] == rows | {"medical": 50, "banking": 96}


def test_every_arm_of_qqp_has_figures_of_pairs_streams_and_other_fields(general: Watched) -> None:
    for arm in general.results["arms"].values():
        test = arm["test"]
        assert all(is_figure(test[name]) for name in ("auc", "average_precision", "hard_auc"))
        for form in ("served_at_error", "served_at_error_half_missing"):
            assert list(test[form]) == ["0.01", "0.02", "0.05", "0.10"]
            assert all(is_figure(figure) for figure in test[form].values())
        assert test["slices"]["length: at most 8 words"]["n"] == 100
        assert is_figure(arm["not tuned on"]["medical"]["auc"])
        assert is_figure(arm["not tuned on"]["banking77"]["auc"])


def test_the_hard_subset_of_all_arms_is_matched_on_the_untuned_similarity(
    general: Watched,
) -> None:
    arms = general.results["arms"]
    assert len({arm["test"]["hard_n"] for arm in arms.values()}) == 1
    assert {arm["test"]["hard_matched_on"] for arm in arms.values()} == {"base similarities"}
    assert 20 <= arms["untuned"]["test"]["hard_n"] < 100
    assert abs(arms["untuned"]["test"]["hard_auc"]["value"] - 0.5) < 0.1
    assert arms["untuned"]["test"]["auc"]["value"] > 0.6


def test_the_simulation_has_every_policy_on_both_streams(general: Watched) -> None:
    wanted = {"exact only"} | {
        f"{arm}, {policy} {bound}"
        for arm in ARMS
        for policy in ("best threshold at", "max_error_rate")
        for bound in ("0.02", "0.05", "0.1")
    }
    simulation = general.results["simulation"]
    assert list(simulation) == ["each question once", "Zipf"]
    for name, stream in simulation.items():
        assert set(stream["arms"]) == wanted
        repeated = stream["requests"] > stream["distinct_questions"]
        assert repeated is (name == "Zipf")
        exact = stream["arms"]["exact only"]
        assert (exact["exact_hits"] > 0) is repeated and exact["semantic_hits"] == 0
        assert "series" not in exact
    lax = simulation["each question once"]["arms"]["untuned, best threshold at 0.1"]
    assert lax["false_hit_rate"]["value"] is None or lax["false_hit_rate"]["value"] <= 0.1


def test_work_keeps_every_arm_as_an_artefact(general: Watched) -> None:
    for arm in ARMS:
        directory = general.results["work"] / arm
        embedder = OnnxEmbedder.load(directory)
        assert load_calibration(directory).fingerprint == embedder.fingerprint


def test_unseen_intents_are_in_neither_training_nor_calibration(
    support: Watched, data: Path
) -> None:
    unseen = set(support.results["unseen_intents"])
    assert len(unseen) == 3
    with (data / "banking77_train.csv").open(newline="") as lines:
        intent = {row["text"]: row["category"] for row in csv.DictReader(lines)}
    calibrated_on = texts_of(support.calibrated_on[0])
    trained_on = {intent[text] for text in support.texts()}
    assert not unseen & trained_on and len(trained_on) == len(KEYS) - 3
    assert not unseen & {intent[text] for text in calibrated_on}
    assert not support.texts() & calibrated_on


def test_no_question_of_the_banking_test_is_trained_on(support: Watched, data: Path) -> None:
    with (data / "banking77_test.csv").open(newline="") as lines:
        tested = {row["text"] for row in csv.DictReader(lines)}
    assert not tested & {text.rstrip("?") for text in support.texts()}


def test_seen_and_unseen_intents_are_measured_apart(support: Watched) -> None:
    assert support.results["asked"] == {"seen": 72, "unseen": 24, "unseen among all": 24}
    for arm in support.results["arms"].values():
        for group in banking77.GROUPS:
            assert is_figure(arm[group]["auc"])
            assert is_figure(arm[group]["served_at_error_half_missing"]["0.10"])
    # random against nearest: the untuned model ranks them worse than by chance
    assert support.results["arms"]["untuned"]["seen"]["auc"]["value"] < 0.5


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    kept = json.loads(json.dumps(results))
    del kept["seconds"], kept["load_average"]
    for name in ("BCE", "SLD"):
        del kept["arms"][name]["training"]["seconds"]
        del kept["arms"][name]["training"]["seconds_per_100_steps"]
    return dict(kept)


def test_a_run_can_be_repeated_and_be_gone_on_with(
    support: Watched, base: Path, data: Path, tmp_path: Path
) -> None:
    arguments = (*SUPPORT, "--base", base, "--data", data, "--work", tmp_path / "work")
    again = watch(banking77, arguments, tmp_path / "again.json")
    assert without_times(again.results) == without_times(support.results)
    for given in again.given:
        assert given["resume"] and (given["checkpoint_dir"] / "checkpoint.pt").exists()


def test_a_limit_takes_so_many_random_rows_of_each_file(data: Path) -> None:
    some = qqp.read_data(data, 50, seed=0)
    assert len(some.test) == len(some.medical) == len(some.banking) == 50
    assert len(some.train) <= 50
    assert some.test != qqp.read_data(data, 50, seed=1).test
    in_order = runner.limited(range(100), 9, 0)
    assert in_order == sorted(in_order) and in_order != list(range(9))
    assert runner.limited(range(3), None, 0) == runner.limited(range(3), 5, 0) == [0, 1, 2]


def test_an_error_ends_the_run_by_its_text_and_keeps_the_results_before(
    base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    out.write_text("the ones before")
    with pytest.raises(SystemExit, match=r"qqp_train.jsonl cannot be read"):
        qqp.main(["--base", str(base), "--data", str(tmp_path), "--out", str(out)])
    with pytest.raises(SystemExit, match=r"banking77_train.csv cannot be read"):
        banking77.main(["--base", str(base), "--data", str(tmp_path), "--out", str(out)])
    assert out.read_text() == "the ones before"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--learning-rate", "0"], "learning_rate is 0.0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--max-steps", "0"], "max_steps is 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_opened(
    arguments: list[str],
    says: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arms, "open_base", lambda *_: pytest.fail("opened"))
    with pytest.raises(SystemExit, match=says):
        qqp.main(["--data", str(data), "--out", "out.json", *arguments])


def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(arms, "open_base", lambda *_: pytest.fail("opened"))
    with pytest.raises(IsADirectoryError):
        qqp.main(["--data", str(tmp_path), "--out", str(tmp_path)])


def test_too_little_to_calibrate_on_is_refused_before_any_training(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_nothing(monkeypatch)
    monkeypatch.setattr(arms, "fit", lambda *_, **__: pytest.fail("trained"))
    for study, rest in ((qqp, ()), (banking77, ("--unseen", "3"))):
        with pytest.raises(SystemExit, match="at least 200"):
            study.main(
                [*BRIEF, "--base", str(base), "--data", str(data), "--limit", "100", *rest,
                 "--out", str(tmp_path / "out.json")]
            )  # fmt: skip


def test_hard_pairs_are_random_of_the_same_intent_and_nearest_of_others() -> None:
    angles = np.radians([0, 40, 10, 90, 15, 170])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    questions = [Question(f"q{i}", answer_id=intent) for i, intent in enumerate("aabbcc")]
    pairs = intents.hard_pairs(questions, vectors, 1, seed=0)
    positive = {(p.prompt, p.other) for p in pairs if p.positive}
    negative = {(p.prompt, p.other) for p in pairs if not p.positive}
    assert positive == {("q0", "q1"), ("q2", "q3"), ("q4", "q5")}
    # each with the nearest of another intent: 0-2, 1-4, 2-4, 3-1, 4-2, 5-3
    assert negative == {("q0", "q2"), ("q1", "q4"), ("q2", "q4"), ("q1", "q3"), ("q3", "q5")}
    assert len(pairs) == len(positive) + len(negative)
    asked = np.array([True, *[False] * 5])
    some = intents.hard_pairs(questions, vectors, 1, 0, asked)
    assert {(p.prompt, p.other) for p in some} == {("q0", "q1"), ("q0", "q2")}


@pytest.mark.parametrize("unseen", [1, 11])
def test_either_side_keeps_two_intents(unseen: int) -> None:
    questions = [Question(t, answer_id=i) for t, i in questions_with_intents(2, seed=0)]
    with pytest.raises(TrainingError, match=rf"unseen is {unseen} of 12 intents; leave two"):
        intents.split_questions(questions, questions, unseen, seed=0)


def test_a_file_without_the_columns_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("question,intent\na,b\n")
    with pytest.raises(TrainingError, match=r"x\.csv cannot be read .*text,category"):
        intents.read_intents(file)


@pytest.mark.parametrize("study", [qqp, banking77])
def test_the_docstring_begins_with_what_it_is_and_gives_the_command(study: Any) -> None:
    lines = study.__doc__.splitlines()
    assert lines[0].endswith(".")
    assert lines[2].startswith(f"python studies/{Path(study.__file__).name}")


def test_a_script_runs_from_anywhere_without_further_paths(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(qqp.__file__)), "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "--learning-rate" in done.stdout and "Quora" in done.stdout
