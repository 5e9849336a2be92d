"""Fine-tuning: what it learns and leaves alone, that it can be repeated and resumed, and errors."""

import copy
import errno
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from semcache_core.errors import TrainingError
from semcache_core.training.data.augmentation import composed_pairs
from semcache_core.training.data.records import Pair
from semcache_core.training.losses import TuningLoss
from semcache_core.training.trainer import FitOptions, FitResult, between, fit
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as models
from sklearn.metrics import roc_auc_score
from tiny_models import OTHERS, toy_pairs, word_model

PLAIN = FitOptions(
    batch_size=16,
    learning_rate=5e-3,
    ranking=0,
    distillation=0,
    synthetic=0,
    epochs=3,
    max_tokens=16,
)
BRIEF = replace(PLAIN, max_steps=6)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    return word_model(tmp_path_factory.mktemp("bert"))


TRAIN, TEST = toy_pairs(480, seed=0), toy_pairs(200, seed=1)


def cosines(model: SentenceTransformer, pairs: list[Pair]) -> np.ndarray:
    left = model.encode([pair.prompt for pair in pairs], normalize_embeddings=True)
    right = model.encode([pair.other for pair in pairs], normalize_embeddings=True)
    return (left * right).sum(axis=1)


def auc(model: SentenceTransformer) -> float:
    return float(roc_auc_score([p.same_answer for p in TEST], cosines(model, TEST)))


def weights(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: SentenceTransformer, other: SentenceTransformer) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.fixture(scope="module")
def tuned(model) -> FitResult:
    return fit(TRAIN, model, PLAIN)


@pytest.fixture(scope="module")
def brief(model) -> FitResult:
    return fit(TRAIN, model, BRIEF)


class Interrupted(Exception):
    pass


def refuse(_: object) -> None:
    raise Interrupted


def interrupting(at: int):
    def progress(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise Interrupted

    return progress


def never(step: int, steps: int, loss: float) -> None:
    raise AssertionError(f"step {step} was taken")


# -- what it learns, and what it leaves alone --------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", "sld"])
def test_alike_wording_with_other_answers_is_told_apart_after_tuning(model, tuned, loss):
    result = tuned if loss == "bce" else fit(TRAIN, model, replace(PLAIN, loss=loss, epochs=6))
    assert 0.3 < auc(model) < 0.6
    assert auc(result.model) > 0.9


def test_lambda_and_c_are_trained_along(model, tuned):
    start = fit(TRAIN, model, replace(PLAIN, max_steps=1))
    assert start.lam == pytest.approx(1 / 15, rel=0.02)
    assert tuned.lam < 0.95 * start.lam
    assert abs(tuned.c - start.c) > 0.05


def test_p_starts_at_one_half_for_the_mean_cosine_whatever_the_model(model):
    start = fit(TRAIN[:64], model, replace(PLAIN, max_steps=1))
    assert start.lam * start.c == pytest.approx(cosines(model, TRAIN[:64]).mean(), rel=0.03)


def test_word_embeddings_stay_as_they_were_and_all_layers_move(model, tuned):
    before, after = weights(model), weights(tuned.model)
    assert before.keys() == after.keys()
    still = {name.partition(".model.")[2] for name in before if before[name].equal(after[name])}
    # nothing is asked of the pooler, which the embedding does not use
    assert still == {
        "embeddings.word_embeddings.weight",
        "pooler.dense.weight",
        "pooler.dense.bias",
    }


def test_the_model_that_was_given_is_not_touched(model):
    given = copy.deepcopy(model).train()
    result = fit(TRAIN, given, BRIEF)
    assert equal(given, model)
    assert given.training and not result.model.training
    assert all(p.requires_grad for p in (*given.parameters(), *result.model.parameters()))


def test_the_untuned_model_is_asked_without_dropout_and_the_tuned_one_trained_with_it(
    model, monkeypatch
):
    honest, modes = TuningLoss.__call__, []

    def watching(self, batch):
        modes.append((self.base.training, self.student.training))
        return honest(self, batch)

    monkeypatch.setattr(TuningLoss, "__call__", watching)
    fit(TRAIN, copy.deepcopy(model).train(), replace(BRIEF, max_steps=2))
    fit(TRAIN, copy.deepcopy(model).eval(), replace(BRIEF, max_steps=2))
    assert modes == [(False, True)] * 4


def test_lora_changes_the_linear_layers_only_and_is_merged(model):
    result = fit(TRAIN, model, replace(PLAIN, lora_rank=4, learning_rate=2e-2))
    assert not [m for m in result.model.modules() if "lora" in type(m).__module__]
    assert auc(result.model) > auc(model) + 0.1
    before, after = weights(model), weights(result.model)
    assert before.keys() == after.keys()
    moved = [name for name in before if not before[name].equal(after[name])]
    # query, key, value, output and the two around the activation, in each of two layers
    assert len(moved) == 12
    assert not [name for name in moved if "norm" in name.lower() or "bias" in name]


def test_half_way_to_the_tuned_model_is_the_mean_of_the_weights(model, brief):
    half = fit(TRAIN, model, replace(BRIEF, interpolation=0.5))
    base, full = weights(model), weights(brief.model)
    for name, weight in weights(half.model).items():
        torch.testing.assert_close(weight, (base[name] + full[name]) / 2)
    assert (half.lam, half.c) == (brief.lam, brief.c)
    from_outside = weights(between(model, brief.model, 0.5))
    assert all(
        torch.equal(from_outside[name], weight) for name, weight in weights(half.model).items()
    )
    assert equal(between(model, brief.model, 1), brief.model)


def test_composed_pairs_are_trained_on_beside_the_given_ones(model, monkeypatch):
    seen = []
    one_step = replace(BRIEF, max_steps=1, batch_size=len(TRAIN) * 2, composed=0.25)
    monkeypatch.setattr(TuningLoss, "__call__", lambda self, batch: refuse(seen.append(batch)))
    with pytest.raises(Interrupted):
        fit(TRAIN, model, one_step)
    texts = [[seen[0].texts[row] for row in pair] for pair in seen[0].pairs]
    added = [pair for pair in texts if tuple(pair) not in {(p.prompt, p.other) for p in TRAIN}]
    assert len(texts) == len(TRAIN) + len(added)
    assert len(added) == len(TRAIN) // 4
    made = composed_pairs(TRAIN, len(TRAIN) // 4, seed=one_step.seed)
    assert sorted(map(tuple, added)) == sorted((pair.prompt, pair.other) for pair in made)


def test_keeping_holds_the_cosines_of_unrelated_questions(model, tuned):
    chance = random.Random(5)
    unrelated = [
        Pair(" ".join(chance.sample(OTHERS, 4)), " ".join(chance.sample(OTHERS, 4)), 0)
        for _ in range(100)
    ]

    def drift(result: FitResult) -> float:
        return float(np.abs(cosines(result.model, unrelated) - cosines(model, unrelated)).mean())

    kept = fit(TRAIN, model, replace(PLAIN, distillation=3.0))
    assert drift(kept) < 0.5 * drift(tuned)
    assert auc(kept.model) > auc(model) + 0.2


def test_extra_questions_are_learnt_from(model):
    options = replace(BRIEF, synthetic=0.5)
    some = fit(TRAIN, model, options, questions=["other1 other2 10", "other3 other4 20"])
    assert not equal(some.model, fit(TRAIN, model, options).model)


def test_a_model_in_half_precision_is_tuned_in_full(model):
    result = fit(TRAIN, copy.deepcopy(model).half(), replace(BRIEF, max_steps=1))
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_a_text_that_is_no_valid_unicode_is_no_obstacle(model):
    fit([*TRAIN[:8], Pair("key1 \ud800", "key1", 1)], model, replace(BRIEF, epochs=1))


def test_rates_rise_then_fall_to_0_and_gradients_are_clipped(model, monkeypatch):
    honest, rates, norms = torch.optim.AdamW.step, [], []

    def watching(self, *args, **kwargs):
        weights, predictor = self.param_groups
        assert (weights["weight_decay"] > 0, predictor["weight_decay"]) == (True, 0)
        rates.append((weights["lr"], predictor["lr"]))
        gradients = [p.grad.norm() for p in weights["params"] if p.grad is not None]
        norms.append(torch.stack(gradients).norm().item())
        return honest(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watching)
    fit(TRAIN[:160], model, replace(PLAIN, epochs=5))
    shares = [1 / 3, 2 / 3, 1, *(left / 47 for left in range(47, 0, -1))]
    assert [rate for rate, _ in rates] == pytest.approx([5e-3 * share for share in shares])
    assert [rate for _, rate in rates] == pytest.approx([1e-2 * share for share in shares])
    assert max(norms) == pytest.approx(1, abs=1e-3)


# -- repeating and resuming --------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(model, brief):
    state = torch.get_rng_state()
    again = fit(TRAIN, model, BRIEF)
    assert equal(again.model, brief.model)
    assert (again.lam, again.c, again.losses) == (brief.lam, brief.c, brief.losses)
    assert not equal(fit(TRAIN, model, replace(BRIEF, seed=1)).model, brief.model)
    # the caller's own random numbers go on undisturbed
    assert torch.equal(torch.get_rng_state(), state)


EVERYTHING = replace(PLAIN, epochs=1, max_steps=9, ranking=0.3, distillation=1.0, synthetic=0.5)


@pytest.mark.parametrize("rank", [0, 2])
def test_an_interrupted_run_ends_as_it_would_have_without_interruption(model, tmp_path, rank):
    options = replace(EVERYTHING, lora_rank=rank, checkpoint_every=3)
    straight = fit(TRAIN, model, options)
    with pytest.raises(Interrupted):
        fit(TRAIN, model, options, checkpoint_dir=tmp_path, progress=interrupting(5))
    taken: list[int] = []
    resumed = fit(
        TRAIN, model, options, checkpoint_dir=str(tmp_path), resume=True,
        progress=lambda step, steps, loss: taken.append(step),
    )  # fmt: skip
    assert taken == [4, 5, 6, 7, 8, 9]
    assert equal(resumed.model, straight.model)
    assert (resumed.lam, resumed.c, resumed.losses) == (straight.lam, straight.c, straight.losses)
    assert resumed.steps == 9
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_run_is_saved_after_each_epoch_too(model, tmp_path):
    pairs, options = TRAIN[:40], replace(BRIEF, epochs=2, max_steps=None)
    with pytest.raises(Interrupted):
        fit(pairs, model, options, checkpoint_dir=tmp_path, progress=interrupting(5))
    taken: list[int] = []
    fit(
        pairs, model, options, checkpoint_dir=tmp_path, resume=True,
        progress=lambda step, steps, loss: taken.append(step),
    )  # fmt: skip
    assert taken == [4, 5, 6]


def test_a_finished_run_is_resumed_without_a_step_and_can_be_placed_elsewhere(
    model, brief, tmp_path
):
    fit(TRAIN, model, BRIEF, checkpoint_dir=tmp_path)
    again = fit(TRAIN, model, BRIEF, checkpoint_dir=tmp_path, resume=True, progress=never)
    assert equal(again.model, brief.model)
    quarter = replace(BRIEF, interpolation=0.25, checkpoint_every=7)
    placed = fit(TRAIN, model, quarter, checkpoint_dir=tmp_path, resume=True, progress=never)
    assert not equal(placed.model, brief.model)


def test_resuming_where_nothing_is_saved_starts_from_the_beginning(model, brief, tmp_path):
    result = fit(TRAIN, model, BRIEF, checkpoint_dir=tmp_path / "new", resume=True)
    assert equal(result.model, brief.model)


@pytest.fixture
def checkpoint(model, tmp_path) -> Path:
    fit(TRAIN, model, replace(BRIEF, max_steps=1), checkpoint_dir=tmp_path)
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("options", "made with learning_rate=0.005, and this run has 0.001"),
        ("labels", "made with pairs="),
        ("questions", "made with questions="),
        ("model", "made with model="),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_naming_what_differs(model, checkpoint, what, named):
    pairs, questions, other = list(TRAIN), [], copy.deepcopy(model)
    options = replace(BRIEF, max_steps=1)
    if what == "options":
        options = replace(options, learning_rate=1e-3)
    elif what == "labels":
        pairs[7] = replace(pairs[7], same_answer=0.5)
    elif what == "questions":
        questions = ["how?"]
    else:
        next(other.parameters()).data[0, 0] += 1
    before = checkpoint.read_bytes()
    with pytest.raises(TrainingError, match=named):
        fit(
            pairs, other, options, questions=questions, checkpoint_dir=checkpoint.parent,
            resume=True, progress=never,
        )  # fmt: skip
    assert checkpoint.read_bytes() == before


def test_a_new_run_does_not_write_over_an_earlier_ones_checkpoint(model, checkpoint):
    before = checkpoint.read_bytes()
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is there from an earlier run"):
        fit(TRAIN, model, BRIEF, checkpoint_dir=checkpoint.parent, progress=never)
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "half"])
def test_a_checkpoint_that_cannot_be_read_is_an_error_naming_it(model, checkpoint, content):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: len(whole) // 2] if content == "half" else content)
    with pytest.raises(TrainingError, match=r"checkpoint\.pt is no checkpoint, .* delete it"):
        fit(
            TRAIN, model, replace(BRIEF, max_steps=1), checkpoint_dir=checkpoint.parent,
            resume=True, progress=never,
        )  # fmt: skip


def test_a_full_disk_is_an_error_and_the_earlier_checkpoint_stays(
    model, brief, tmp_path, monkeypatch
):
    options = replace(BRIEF, checkpoint_every=2)
    with pytest.raises(Interrupted):
        fit(TRAIN, model, options, checkpoint_dir=tmp_path, progress=interrupting(2))
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="No space left"):
        patch.setattr(os, "fsync", full)
        fit(TRAIN, model, options, checkpoint_dir=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    resumed = fit(TRAIN, model, options, checkpoint_dir=tmp_path, resume=True)
    assert equal(resumed.model, brief.model)


def test_a_checkpoint_directory_that_cannot_be_written_to_is_refused_before_any_work(
    model, tmp_path
):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrainingError, match=r"checkpoint_dir .* cannot be written to"):
        fit(TRAIN, model, BRIEF, checkpoint_dir=tmp_path / "file" / "below", progress=never)
    assert (tmp_path / "file").read_text() == "mine"


def test_resuming_needs_a_directory_to_resume_from(model):
    with pytest.raises(TrainingError, match="resume=True needs checkpoint_dir"):
        fit(TRAIN, model, BRIEF, resume=True, progress=never)


# -- what is reported, and what is refused -----------------------------------------------------


def test_progress_is_told_of_every_step_and_losses_are_means_of_50(model):
    told: list[tuple[int, int, float]] = []
    options = replace(PLAIN, epochs=2)
    result = fit(TRAIN, model, options, progress=lambda *step: told.append(step))
    assert [step[:2] for step in told] == [(i, 60) for i in range(1, 61)]
    values = [loss for _, _, loss in told]
    assert result.losses == pytest.approx([np.mean(values[:50]), np.mean(values[50:])])
    assert result.steps == 60
    assert result.seconds > 0


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_the_checkpoint(
    model, tmp_path, monkeypatch
):
    honest, calls = TuningLoss.__call__, []

    def failing(self, batch):
        calls.append(batch)
        return honest(self, batch) * (float("nan") if len(calls) == 3 else 1)

    monkeypatch.setattr(TuningLoss, "__call__", failing)
    options = replace(BRIEF, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"loss is nan at step 3.*learning_rate is 0\.005"):
        fit(TRAIN, model, options, checkpoint_dir=tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(state["losses"]) == 2
    assert all(weight.isfinite().all() for weight in state["weights"])


@pytest.mark.parametrize(
    ("pairs", "named"),
    [
        ([], "no pairs"),
        ([Pair("a", "b", 1)] * 5, "5 of 5 pairs have the same answer"),
        ([Pair("a", "b", 0.5)] * 5, "0 of 5 pairs have the same answer"),
        ([*TRAIN, Pair("a", "b", 1.5)], r"same_answer of pair 480 is 1\.5"),
        ([*TRAIN, Pair("a", "b", -0.1)], r"same_answer of pair 480 is -0\.1"),
        ([*TRAIN, Pair("a", "b", float("nan"))], "same_answer of pair 480 is nan"),
    ],
)
def test_pairs_that_teach_nothing_are_refused_before_any_work(model, tmp_path, pairs, named):
    with pytest.raises(TrainingError, match=named):
        fit(pairs, model, BRIEF, checkpoint_dir=tmp_path / "new", progress=never)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("questions", ["how?", ["how?", " "], ["how?", None]])
def test_questions_that_are_no_texts_are_refused(model, questions):
    with pytest.raises(TrainingError, match="questions must be texts"):
        fit(TRAIN, model, BRIEF, questions=questions, progress=never)


def test_a_model_that_could_not_be_exported_is_refused_before_any_work(model):
    other = SentenceTransformer(modules=[model[0], models.Pooling(32, pooling_mode="cls")])
    with pytest.raises(TrainingError, match="pooling 'cls'"):
        fit(TRAIN, other, BRIEF, progress=never)


def test_lora_without_peft_is_an_error_with_the_command_that_installs_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingError, match=r'peft.*pip install "semcache-core\[train\]"'):
        fit(TRAIN, model, replace(BRIEF, lora_rank=2), progress=never)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "mse"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", True),
        ("batch_size", 1),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", 2),
        ("seed", -1),
        ("lora_rank", -1),
        ("ranking", -0.1),
        ("ranking", float("inf")),
        ("distillation", float("nan")),
        ("distillation", None),
        ("synthetic", "much"),
        ("composed", -1),
        ("interpolation", 0),
        ("interpolation", 1.01),
        ("max_tokens", 2),
        ("max_steps", 0),
        ("checkpoint_every", 0),
    ],
)
def test_an_option_out_of_range_is_refused_naming_it_and_its_value(name, value):
    with pytest.raises(TrainingError, match=f"^{name} is {value!r}; give "):
        FitOptions(**{name: value})


def test_options_at_their_limits_are_taken():
    FitOptions(
        batch_size=2, ranking=0, distillation=0, synthetic=0, interpolation=1, max_steps=1, seed=0
    )


def test_the_names_that_options_had_once_are_accepted():
    old = FitOptions(keep=2, towards_tuned=0.5)
    assert old == FitOptions(distillation=2, interpolation=0.5)
    assert replace(old, keep=3, towards_tuned=0.25) == FitOptions(
        distillation=3, interpolation=0.25
    )


def test_an_unknown_option_is_refused_with_those_there_are():
    with pytest.raises(TrainingError, match="there is no option epoch; the options are loss, epo"):
        FitOptions(epoch=3)


def test_frozen_layers_stay_bit_for_bit_and_the_others_move(model: SentenceTransformer) -> None:
    tuned = fit(TRAIN, model, replace(BRIEF, frozen_layers=1)).model
    before, after = weights(model), weights(tuned)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if ".layer.0." in name]
    assert [name for name in moved if ".layer.1." in name]
