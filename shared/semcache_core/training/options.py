"""How to fine-tune."""

import math
from dataclasses import dataclass

from semcache_core.errors import TrainingError

LOSS_NAMES = ("bce", "sld")
_WHOLE = {
    "epochs": 1,
    "batch_size": 2,
    "seed": 0,
    "lora_rank": 0,
    "frozen_layers": 0,
    "max_tokens": 3,
    "max_steps": 1,
    "checkpoint_every": 1,
}


@dataclass(frozen=True)
class FitOptions:
    """How to fine-tune. Raises TrainingError for a value that makes no sense.

    `loss` is "bce" or "sld" (see `losses`). `lora_rank` 0 trains all weights but the word
    embeddings; above 0, low-rank updates of that rank only. The lowest `frozen_layers` stay as they
    are, which saves time: half of them a third of it. `ranking` and `keep` weigh those
    losses against the loss on the pairs; `synthetic` is how many synthetic pairs there are for
    each labelled one, and also what their loss weighs; `composed` is how many longer pairs are made
    of two labelled ones (see `composed_pairs`), for each labelled one. `towards_tuned` is how far
    the result lies on the way from the untuned weights (0) to the tuned ones (1): part of the way
    keeps much of the gain and loses less elsewhere (arXiv 2109.01903). Texts are cut after
    `max_tokens`. `max_steps` makes the run shorter, its learning rate planned for that. A
    checkpoint is written every `checkpoint_every` steps and after each epoch.
    """

    loss: str = "bce"
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 5e-5
    seed: int = 0
    lora_rank: int = 0
    frozen_layers: int = 0
    ranking: float = 0.3
    keep: float = 1.0
    synthetic: float = 0.5
    composed: float = 0.0
    towards_tuned: float = 1.0
    max_tokens: int = 64
    max_steps: int | None = None
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        if self.loss not in LOSS_NAMES:
            raise TrainingError(f"loss is {self.loss!r}; give one of {', '.join(LOSS_NAMES)}")
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if value is None and name == "max_steps":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TrainingError(f"{name} is {value!r}; give a whole number from {least}")
        # both written so that NaN fails too
        for name in ("ranking", "keep", "synthetic", "composed"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise TrainingError(f"{name} is {value!r}; give a number from 0, 0 for without")
        for name in ("learning_rate", "towards_tuned"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value <= 1:
                raise TrainingError(f"{name} is {value!r}; give a number above 0 and at most 1")
