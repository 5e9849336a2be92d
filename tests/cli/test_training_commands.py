"""From a log of questions to an artefact and its figures, command by command."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from commands import refused, run
from langchain_core.messages import AIMessage
from scripted_models import Scripted
from semcache_core import cli
from semcache_core.cli import training
from semcache_core.cli.demo import sample_questions
from semcache_core.decision.calibration import FILE_NAME, load_calibration
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, MODEL_FILE, TOKENIZER_FILE
from semcache_core.errors import TrainingError
from semcache_core.training.calibration import calibrate as calibration
from semcache_core.training.calibration.model_card import Ranking
from semcache_core.training.data.records import read_mined, read_pairs
from semcache_core.training.data.teacher import Teacher
from semcache_core.training.trainer import FitOptions, FitResult
from typer.testing import CliRunner


def write(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, object]] = [
        {"question": q.question, "answer_id": q.intent} for q in sample_questions()
    ]
    return write(tmp_path_factory.mktemp("log") / "questions.jsonl", rows)


@pytest.fixture(scope="module")
def mined(log: Path) -> Path:
    out = log.with_name("mined.jsonl")
    assert f"pairs of 400 questions in {out}" in run("mine", log, "--out", out)
    return out


@pytest.fixture(scope="module")
def labelled(mined: Path) -> Path:
    out = mined.with_name("labelled.jsonl")
    run("label", mined, "--answers", "--out", out)
    return out


def test_mined_pairs_are_nearest_first_and_no_question_is_in_two_splits(mined: Path) -> None:
    pairs = read_mined(mined)
    similarities = [pair.similarity or 0 for pair in pairs]
    assert similarities == sorted(similarities, reverse=True)
    splits: dict[str, set[str]] = {}
    for pair in pairs:
        splits.setdefault(pair.split, set()).update((pair.prompt, pair.other))
    assert set(splits) == {"train", "calibration", "test"}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values()))


def test_answers_label_every_pair_in_place_when_not_told_where_to(
    mined: Path, labelled: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "pairs.jsonl"
    copy.write_bytes(mined.read_bytes())
    run("label", copy, "--answers")
    assert copy.read_bytes() == labelled.read_bytes()
    assert {pair.same_answer for pair in read_pairs(copy)} == {0.0, 1.0}
    assert len(read_pairs(copy)) == len(read_mined(mined))


def test_hard_pairs_are_as_many_of_either_label_and_never_replace_the_others(
    labelled: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "hard.jsonl"
    run("label", labelled, "--answers", "--hard", "--out", out)
    labels = [pair.same_answer for pair in read_pairs(out)]
    assert labels.count(1.0) == labels.count(0.0) > 0
    assert "--out" in refused(capsys, monkeypatch, "label", labelled, "--answers", "--hard")


def scripted_teacher(monkeypatch: pytest.MonkeyPatch, *probabilities: float) -> Scripted:
    """A teacher in place of the one named: gives these probabilities, one after the other."""
    calls = [
        {"name": "TeacherLabel", "args": {"probability": p, "reason": "so"}} for p in probabilities
    ]
    messages = [AIMessage("", tool_calls=[{**call, "id": "1"}]) for call in calls]
    model = Scripted().answering(*messages)
    monkeypatch.setattr(Teacher, "open", classmethod(lambda cls, name: cls(model, name)))
    return model


TWO = [{"prompt": f"a{i}", "other": f"b{i}"} for i in range(2)]
ASK = ("--teacher", "openai:x", "--concurrency", 1)


def test_a_teacher_is_paid_once_however_often_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = scripted_teacher(monkeypatch, 0.9, 0.2), write(tmp_path / "p.jsonl", TWO)
    assert "2 calls" in run("label", pairs, *ASK, "--yes")
    assert [pair.same_answer for pair in read_pairs(pairs)] == [0.9, 0.2]
    assert "0 calls" in run("label", pairs, *ASK, "--yes")
    assert model.asked == 2


def test_a_teacher_is_not_asked_without_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pairs = scripted_teacher(monkeypatch, 0.9, 0.2), write(tmp_path / "p.jsonl", TWO)
    result = CliRunner().invoke(cli.app, ["label", str(pairs), *map(str, ASK)], input="n\n")
    assert result.exit_code != 0
    assert "no price is known for openai:x" in result.stdout
    assert model.asked == 0


def test_pairs_without_a_verdict_are_not_dropped_from_the_file_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted_teacher(monkeypatch, 0.9, 7, 7)
    pairs, out = write(tmp_path / "p.jsonl", TWO), tmp_path / "out.jsonl"
    before = pairs.read_bytes()
    said = refused(capsys, monkeypatch, "label", pairs, *ASK, "--yes")
    assert "1 verdicts could not be read" in said
    assert pairs.read_bytes() == before
    scripted_teacher(monkeypatch, 7, 7)
    run("label", pairs, *ASK, "--yes", "--out", out)
    assert [pair.prompt for pair in read_pairs(out)] == ["a0"]


def test_either_a_teacher_or_answers(
    mined: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--answers", "--teacher", "openai:x"]):
        assert "either --teacher" in refused(capsys, monkeypatch, "label", mined, *options)


def test_a_bad_line_is_named_by_file_and_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(
        '{"prompt": "a", "other": "b", "same_answer": 1, "question": "q"}\n{"prompt": 1}'
    )
    out = tmp_path / "out"
    for command in (
        ["mine", bad, "--out", out],
        ["label", bad, "--answers", "--out", out],
        ["train", bad, "--out", out],
        ["calibrate", bad, "--artefact", out],
        ["score", bad],
        ["evaluate", bad, "--report", out / "report"],
        ["simulate", bad],
    ):
        said = refused(capsys, monkeypatch, *command)
        assert f"{bad}, line " in said, command
    assert not (out / "calibration.json").exists()


def test_labels_outside_0_to_1_and_of_one_class_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [{"prompt": f"a{i}", "other": f"b{i}", "same_answer": 1} for i in range(300)]
    one_class = write(tmp_path / "one.jsonl", pairs)
    outside = write(tmp_path / "outside.jsonl", [*pairs, {**pairs[0], "same_answer": 1.5}])
    monkeypatch.setattr(
        "semcache_core.cli.training.open_sentence_transformer", lambda name: object()
    )
    for file, said in ((one_class, "one class"), (outside, "line 301")):
        for command in (["evaluate", file], ["train", file, "--out", tmp_path / "x"]):
            shown = refused(capsys, monkeypatch, *command)
            assert said in shown or "both labels" in shown or "same answer" in shown, shown
    assert not (tmp_path / "x").exists()


def test_score_gives_a_line_per_pair_in_order_also_for_unlabelled_ones(tmp_path: Path) -> None:
    pairs = write(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": "How do I reset my PIN?", "other": "How do I reset my PIN?"},
            {"prompt": "How do I reset my PIN?", "other": "Who won the cup?"},
        ],
    )
    same, different = (json.loads(line) for line in run("score", pairs).splitlines())
    assert same["similarity"] == pytest.approx(1, abs=1e-5)
    assert same["probability"] > 0.9
    assert different["similarity"] < 0.5
    assert different["probability"] < 0.1


@pytest.mark.slow
def test_evaluate_prints_figures_as_a_table_as_json_and_as_a_page(
    labelled: Path, tmp_path: Path
) -> None:
    figures = json.loads(run("evaluate", labelled, "--json", "--report", tmp_path / "report"))
    wanted = {"n", "positives", "auc", "average_precision", "hard_auc", "served_at_error"}
    assert figures.keys() >= wanted
    assert figures["served_at_error"].keys() == {"0.01", "0.02", "0.05", "0.10"}
    assert figures["n"] == sum(pair.split == "test" for pair in read_pairs(labelled))
    assert list((tmp_path / "report").iterdir())
    printed = run("evaluate", labelled, "--base", DEFAULT_ARTEFACT)
    assert "average_precision" in printed


def test_evaluate_fails_where_the_artefact_does_not_keep_its_bounds(
    labelled: Path, tmp_path: Path
) -> None:
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (tmp_path / name).symlink_to((DEFAULT_ARTEFACT / name).resolve())
    shipped = load_calibration(DEFAULT_ARTEFACT)
    careless = [replace(row, probability=0.001) for row in shipped.thresholds]
    replace(shipped, thresholds=tuple(careless)).save(tmp_path)
    result = CliRunner().invoke(
        cli.app, ["evaluate", str(labelled), "--artefact", str(tmp_path)], env={"COLUMNS": "120"}
    )
    assert result.exit_code == 1
    assert "the bound is broken" in result.stdout
    assert "does not keep its bound at max_error_rate 0.01, 0.02" in result.stderr


@pytest.mark.slow
def test_simulate_prints_every_policy_and_writes_its_page(log: Path, tmp_path: Path) -> None:
    arguments = ("simulate", log, "--max-error-rate", 0.05)
    simulation = json.loads(run(*arguments, "--json"))
    assert [arm["name"] for arm in simulation["arms"]] == [
        "exact only",
        "best threshold at 0.05",
        "max_error_rate 0.05",
    ]
    assert all(arm["requests"] == 400 for arm in simulation["arms"])
    printed = run(*arguments, "--report", tmp_path)
    assert "exact only" in printed
    assert (tmp_path / "simulation.html").exists()


@pytest.mark.slow
def test_calibrate_refits_an_artefact_in_place(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (tmp_path / name).symlink_to((DEFAULT_ARTEFACT / name).resolve())
    monkeypatch.setattr(calibration, "SEEDS", (0, 1))
    old = b"the old one"
    (tmp_path / FILE_NAME).write_bytes(old)
    rows = [json.loads(line) for line in labelled.read_text("utf-8").splitlines()]
    for row in rows:
        del row["split"]
    printed = run("calibrate", write(tmp_path / "p.jsonl", rows), "--artefact", tmp_path)
    kept = tmp_path / "calibration.old-1.json"
    assert "lambda" in printed
    assert kept.name in printed.replace("\n", "")
    assert kept.read_bytes() == old
    refitted, shipped = load_calibration(tmp_path), load_calibration(DEFAULT_ARTEFACT)
    assert refitted.fingerprint == shipped.fingerprint
    assert refitted.lam != shipped.lam


def test_calibrate_uses_the_calibration_split_and_the_train_split_as_look_alikes_only(
    labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}

    def calibrate(embedder, pairs, *, trained_on):  # type: ignore[no-untyped-def]
        seen["own"] = {pair.split for pair in pairs}
        seen["trained on"] = {pair.split for pair in trained_on}
        raise TrainingError("enough")

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    with pytest.raises(TrainingError, match="enough"):
        run("calibrate", labelled, "--artefact", DEFAULT_ARTEFACT)
    assert seen == {"own": {"calibration"}, "trained on": {"train"}}


@pytest.mark.parametrize(("after", "code"), [(0.7, 1), (0.9, 0)])
def test_train_says_what_is_wrong_and_fails_only_where_it_is_worse_than_its_base(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, code: int
) -> None:
    from semcache_core.training import pipeline

    shipped = load_calibration(DEFAULT_ARTEFACT)
    rows = tuple(replace(row, probability=None) for row in shipped.thresholds)
    base, tuned = (Ranking(80, auc, np.arange(20), 0.5) for auc in (0.8, after))
    made = pipeline.TrainedArtefact(
        tmp_path, replace(shipped, thresholds=rows), cast(FitResult, None), base, tuned
    )
    monkeypatch.setattr(pipeline, "train", lambda *_, **__: made)
    monkeypatch.setattr(training, "open_sentence_transformer", lambda name: f"model {name}")
    result = CliRunner().invoke(cli.app, ["train", str(labelled), "--out", str(tmp_path / "a")])
    assert result.exit_code == code
    assert ("worse than its base" in result.stderr) == (code == 1)
    assert "none of the bounds up to 0.2 has one" in result.stderr


def test_train_hands_on_what_it_is_told_and_reports_what_it_made(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semcache_core.training import pipeline

    seen: dict[str, object] = {}

    def train(pairs, base, out, options, **more):  # type: ignore[no-untyped-def]
        seen.update(pairs=pairs, base=base, out=out, options=options, **more)
        raise TrainingError("enough")

    monkeypatch.setattr(pipeline, "train", train)
    monkeypatch.setattr(training, "open_sentence_transformer", lambda name: f"model {name}")
    arguments = ["--loss", "sld", "--epochs", 3, "--seed", 5, "--base", "x", "--resume"]
    arguments += ["--calibrate-on", labelled, "--lora-rank", 4, "--interpolation", 0.5]
    arguments += ["--composed", 0.25]
    with pytest.raises(TrainingError, match="enough"):
        run("train", labelled, "--out", tmp_path / "a", *arguments)
    options = seen["options"]
    assert (options.loss, options.epochs, options.seed) == ("sld", 3, 5)
    assert (options.lora_rank, options.interpolation, options.composed) == (4, 0.5, 0.25)
    assert (seen["base"], seen["resume"], seen["out"]) == ("model x", True, tmp_path / "a")
    assert seen["pairs"] == seen["calibrate_on"] == read_pairs(labelled)
    with pytest.raises(TrainingError, match="enough"):
        run("train", labelled, "--out", tmp_path / "b", "--towards-tuned", 0.25, "--keep", 2)
    assert seen["options"] == FitOptions(interpolation=0.25, distillation=2)
