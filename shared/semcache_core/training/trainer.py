"""Fine-tunes an embedding model on labelled pairs: `fit`, with `FitOptions`."""

import copy
import dataclasses
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs
from sentence_transformers import SentenceTransformer

from semcache_core.errors import TrainingError
from semcache_core.training.batches import Batch, TrainingBatches, check_data, make_batch
from semcache_core.training.checkpoint import Checkpoint, digest_of_data, digest_of_weights
from semcache_core.training.data.augmentation import composed_pairs
from semcache_core.training.data.records import Pair
from semcache_core.training.losses import (
    BinaryCrossEntropyLoss,
    PairLoss,
    PairPredictor,
    SquaredLogDifferenceLoss,
    TuningLoss,
    cosines,
    encode,
)
from semcache_core.training.onnx_export import transformer_of

OLD_NAMES = {"keep": "distillation", "towards_tuned": "interpolation"}
"""Options by the names they had once, which are still accepted."""


def _whole(default: int | None, least: int) -> Any:
    return Field(default, ge=least, description=f"a whole number from {least}")


def _weight(default: float) -> Any:
    return Field(default, ge=0, description="a number from 0, 0 for without")


def _share(default: float) -> Any:
    return Field(default, gt=0, le=1, description="a number above 0 and at most 1")


@dataclass(frozen=True, config={"strict": True, "extra": "forbid", "allow_inf_nan": False})
class FitOptions:
    """Options of a fine-tuning. Raises TrainingError for a value out of range.

    - `loss`: "bce" or "sld", see `losses`.
    - `lora_rank`: 0 trains all weights but the word embeddings; above 0, low-rank updates only.
    - `frozen_layers`: number of lowest layers left as they are; half of them save a third of the
      time.
    - `ranking`, `distillation`: weights of these losses; the loss on the pairs has weight 1.
    - `synthetic`: synthetic pairs for each labelled one, and the weight of their loss.
    - `composed`: longer pairs made of two labelled ones (`composed_pairs`), for each labelled one.
    - `interpolation`: position of the result between the untuned weights (0) and the tuned ones
      (1). Part of the way keeps much of the gain and loses less elsewhere (arXiv 2109.01903).
    - `max_tokens`: longer texts are cut.
    - `max_steps`: shortens the run, and the schedule of the learning rate with it.
    - `checkpoint_every`: steps between two checkpoints; there is one after each epoch too.

    The old names in `OLD_NAMES` are accepted.
    """

    loss: Literal["bce", "sld"] = Field(default="bce", description="one of bce, sld")
    epochs: int = _whole(1, 1)
    batch_size: int = _whole(64, 2)
    learning_rate: float = _share(5e-5)
    seed: int = _whole(0, 0)
    lora_rank: int = _whole(0, 0)
    frozen_layers: int = _whole(0, 0)
    ranking: float = _weight(0.3)
    distillation: float = _weight(1.0)
    synthetic: float = _weight(0.5)
    composed: float = _weight(0.0)
    interpolation: float = _share(1.0)
    max_tokens: int = _whole(64, 3)
    max_steps: int | None = _whole(None, 1)
    checkpoint_every: int = _whole(200, 1)

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, given: Any, validate: Callable[[Any], Any]) -> Any:
        options = dict(given.kwargs or {})
        # `replace` passes the new names too, with the values they had
        options |= {new: options.pop(old) for old, new in OLD_NAMES.items() if old in options}
        try:
            return validate(ArgsKwargs(given.args, options))
        except ValidationError as invalid:
            error = invalid.errors(include_url=False)[0]
            name = str(error["loc"][0])
            fields = cls.__pydantic_fields__  # type: ignore[attr-defined]
            if name not in fields:
                known = ", ".join(fields)
                raise TrainingError(f"there is no option {name}; the options are {known}") from None
            fix = fields[name].description
            raise TrainingError(f"{name} is {error['input']!r}; give {fix}") from None


LOSSES: dict[str, type[PairLoss]] = {
    "bce": BinaryCrossEntropyLoss,
    "sld": SquaredLogDifferenceLoss,
}
LOSSES_EVERY = 50
_STEEPNESS = 15.0
_FIRST_LOOK = 128
_PREDICTOR_RATE = 1e-2
_WEIGHT_DECAY = 0.01
_WARMUP = 0.06
_GRADIENT_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The tuned model, in evaluation mode, and how the run went.

    `lam` and `c` were trained along with it; `calibrate` fits those of an artefact. `losses` are
    means of 50 steps each; `seconds` includes the steps before an interruption.
    """

    model: SentenceTransformer
    lam: float
    c: float
    steps: int
    losses: list[float]
    seconds: float


def fit(
    pairs: Sequence[Pair],
    model: SentenceTransformer,
    options: FitOptions | None = None,
    *,
    questions: Sequence[str] = (),
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> FitResult:
    """Fine-tune a copy of `model` so that sigmoid(cosine / lambda - c) matches the labels.

    The losses (`TuningLoss`) are on the labelled `pairs` (arXiv 2402.01173), on longer pairs
    composed of them, and on synthetic pairs made from their questions and from the unlabelled
    `questions`. It runs on the GPU when there is one, in bfloat16 where the hardware has it. On the
    same CPU, with as many threads, the same arguments give the same weights.

    With `checkpoint_dir` the run is saved as it goes; `resume=True` goes on from there, or begins,
    and ends as it would have without an interruption. `progress(step, steps, loss)` is called after
    every step.

    Raises TrainingError, before any work, for a model that could not be exported, for pairs of one
    class, for labels outside [0, 1], and for a checkpoint of another run; during the work when the
    loss is not finite and when a checkpoint cannot be written.
    """
    options = options or FitOptions()
    transformer_of(model)
    check_data(pairs, questions)
    if resume and checkpoint_dir is None:
        raise TrainingError("resume=True needs checkpoint_dir, where the run was saved")
    checkpoint = saved = None
    if checkpoint_dir is not None:
        checkpoint = Checkpoint(Path(checkpoint_dir), _made_with(pairs, questions, model, options))
        saved = checkpoint.start(resume)
    # dropout and new weights draw from torch's one generator: the caller finds it as it was
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(options.seed)
        run = _Run(pairs, questions, model, options)
        if saved is not None:
            run.restore(saved)
        run.train(checkpoint, progress)
    return run.result()


class _Run:
    """State of a run: the model in training, the untuned model, the optimiser."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        questions: Sequence[str],
        model: SentenceTransformer,
        options: FitOptions,
    ) -> None:
        self.options, self.home = options, model.device
        composed = round(options.composed * len(pairs))
        pairs = [*pairs, *composed_pairs(pairs, composed, seed=options.seed)]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.base = copy.deepcopy(model).float().to(device).eval().requires_grad_(False)
        self.student = copy.deepcopy(model).float().to(device).train().requires_grad_(True)
        transformer: Any = self.student[0]
        # their moments would be most of the optimiser's work, and most words are hardly seen
        transformer.auto_model.get_input_embeddings().requires_grad_(False)
        for layer in _layers(transformer.auto_model)[: options.frozen_layers]:
            layer.requires_grad_(False)
        rank = options.lora_rank
        self.lora = _with_lora(transformer.auto_model, rank) if rank else None
        self.pair_loss = LOSSES[options.loss](_predictor(self.base, pairs, options)).to(device)
        self.loss = TuningLoss(
            self.student,
            self.base,
            self.pair_loss,
            synthetic=options.synthetic,
            ranking=options.ranking,
            distillation=options.distillation,
            max_tokens=options.max_tokens,
        )
        self.weights = [p for p in self.student.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": self.weights, "weight_decay": _WEIGHT_DECAY},
                {"params": list(self.pair_loss.parameters()), "weight_decay": 0.0},
            ]
        )
        self.per_epoch = -(-len(pairs) // options.batch_size)
        self.steps = min(options.epochs * self.per_epoch, options.max_steps or sys.maxsize)
        self.batches = TrainingBatches(
            pairs,
            questions,
            batch_size=options.batch_size,
            synthetic=options.synthetic,
            steps=self.steps,
            seed=options.seed,
        )
        self.losses: list[float] = []
        self.seconds = 0.0

    def train(
        self, checkpoint: Checkpoint | None, progress: Callable[[int, int, float], None] | None
    ) -> None:
        """Take the steps that are left."""
        started = time.perf_counter() - self.seconds
        done = len(self.losses)
        for batch in islice(self.batches.starting_at(done), self.steps - done):
            self._step(batch)
            self.seconds = time.perf_counter() - started
            if checkpoint is not None and self._due(len(self.losses)):
                checkpoint.save(self._state())
            if progress is not None:
                progress(len(self.losses), self.steps, self.losses[-1])

    def _step(self, batch: Batch) -> None:
        rate = _rate(len(self.losses), self.steps)
        model_group, predictor_group = self.optimiser.param_groups
        model_group["lr"] = rate * self.options.learning_rate
        predictor_group["lr"] = rate * _PREDICTOR_RATE
        loss = self.loss(batch)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, _GRADIENT_NORM)
        value = loss.item()
        # before the weights are spoilt, and a checkpoint with them
        if not math.isfinite(value) or not math.isfinite(norm.item()):
            raise TrainingError(
                f"the loss is {value} at step {len(self.losses) + 1}, its gradient {norm.item()}; "
                f"learning_rate is {self.options.learning_rate}, try a tenth of it"
            )
        self.optimiser.step()
        self.losses.append(value)

    def _due(self, step: int) -> bool:
        often = step % self.options.checkpoint_every == 0
        return often or step % self.per_epoch == 0 or step == self.steps

    def _state(self) -> dict[str, Any]:
        # the learning rate and the batches follow from the number of losses
        return {
            "weights": [weight.detach() for weight in self.weights],
            "predictor": self.pair_loss.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "losses": self.losses,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for weight, saved in zip(self.weights, state["weights"], strict=True):
                weight.copy_(saved)
        self.pair_loss.load_state_dict(state["predictor"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.losses, self.seconds = state["losses"], state["seconds"]
        torch.set_rng_state(state["random"])
        if torch.cuda.is_available() and state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])

    def result(self) -> FitResult:
        if self.lora is not None:
            self.lora.merge_and_unload()
        tuned = self.student.eval().requires_grad_(True)
        if self.options.interpolation < 1:
            tuned = between(self.base, tuned, self.options.interpolation)
        starts = range(0, self.steps, LOSSES_EVERY)
        return FitResult(
            model=tuned.to(self.home),
            lam=self.pair_loss.predictor.lam,
            c=self.pair_loss.predictor.c.item(),
            steps=self.steps,
            losses=[statistics.fmean(self.losses[s : s + LOSSES_EVERY]) for s in starts],
            seconds=self.seconds,
        )


def _predictor(
    base: SentenceTransformer, pairs: Sequence[Pair], options: FitOptions
) -> PairPredictor:
    """Starts with p = 0.5 at the mean cosine of some pairs, which differs much among models."""
    some = random.Random(options.seed).sample(pairs, min(len(pairs), _FIRST_LOOK))
    batch = make_batch(some, (), {})
    with torch.no_grad():
        vectors = encode(base, batch.texts, options.max_tokens)
        mean = cosines(vectors, torch.from_numpy(batch.pairs).to(vectors.device)).mean().item()
    return PairPredictor(1 / _STEEPNESS, mean * _STEEPNESS)


def _with_lora(transformer: Any, rank: int) -> Any:
    """Put trainable low-rank updates of all linear layers into `transformer`."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise TrainingError(
            f'lora_rank={rank} needs peft; run: pip install "semcache-core[train]"'
        ) from None
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return get_peft_model(transformer, config)


def _layers(auto_model: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """The layers of a transformer, the lowest first: its first list of modules."""
    lists = [m for m in auto_model.modules() if isinstance(m, torch.nn.ModuleList)]
    return list(lists[0]) if lists else []


def between(
    base: SentenceTransformer, tuned: SentenceTransformer, share: float
) -> SentenceTransformer:
    """A model whose weights lie `share` of the way from `base` (0) to `tuned` (1).

    Source: arXiv 2109.01903.
    """
    made = copy.deepcopy(tuned)
    with torch.no_grad():
        for start, weight in zip(base.parameters(), made.parameters(), strict=True):
            weight.copy_(torch.lerp(start.to(weight), weight, share))
    return made


def _rate(step: int, steps: int) -> float:
    """The share of the full learning rate at a step counted from 0: a rise, then a fall to 0."""
    rise = math.ceil(_WARMUP * steps)
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def _made_with(
    pairs: Sequence[Pair],
    questions: Sequence[str],
    model: SentenceTransformer,
    options: FitOptions,
) -> dict[str, Any]:
    """Everything that decides the steps of a run; `interpolation` applies after them."""
    shaping = dataclasses.asdict(options)
    del shaping["interpolation"], shaping["checkpoint_every"]
    rows = [(pair.prompt, pair.other, pair.same_answer) for pair in pairs]
    return {
        **shaping,
        "pairs": digest_of_data(rows),
        "questions": digest_of_data(list(questions)),
        "model": digest_of_weights(model),
    }
