"""The arguments of all studies, and what they mean for training."""

import argparse
from pathlib import Path

from semcache_core.training.trainer import FitOptions

RESULTS = Path(__file__).resolve().parent / "results"


def parser(doc: str, name: str, steps: int) -> argparse.ArgumentParser:
    """The arguments of all studies; `doc` begins with what this one is about."""
    made = argparse.ArgumentParser(
        description=doc.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = made.add_argument
    add("--out", type=Path, default=RESULTS / f"{name}.json", help="the JSON to write")
    add("--base", help="a sentence-transformers name or directory; all-MiniLM-L6-v2 if none")
    add("--work", type=Path, help="keep models and checkpoints here; the same run goes on there")
    add("--limit", type=at_least_one, help="a random so many rows of each file, for a first look")
    add("--threads", type=at_least_one, help="of torch; as many as it likes if none")
    add("--resamples", type=at_least_one, default=200, help="bootstrap draws of each interval")
    add("--seed", type=int, default=0, help="draws whatever is drawn")
    add("--steps", type=int, default=steps, help="of training, for each loss")
    add("--batch-size", type=int, default=64, help="labelled pairs in a step")
    add("--learning-rate", type=float, default=8e-5, help="at its highest")
    add("--lora-rank", type=int, default=0, help="0 trains all weights but the word embeddings")
    add("--frozen-layers", type=int, default=0, help="so many of the lowest stay as they are")
    add("--ranking", type=float, default=0.3, help="weight of the in-batch negatives")
    add("--keep", type=float, default=0.0, help="weight of staying where the base is")
    add("--synthetic", type=float, default=0.0, help="pairs made by rule, for each labelled one")
    add("--composed", type=float, default=0.0, help="pairs made of two, for each labelled one")
    add("--towards-tuned", type=float, default=1.0, help="1 the tuned weights, .5 half way back")
    return made


def at_least_one(text: str) -> int:
    """Argparse says what is wrong with a number below 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def fit_options(arguments: argparse.Namespace, loss: str, pairs: int) -> FitOptions:
    """As many epochs as the steps need."""
    per_epoch = -(-pairs // max(1, arguments.batch_size))
    return FitOptions(
        loss=loss,
        epochs=max(1, -(-arguments.steps // max(1, per_epoch))),
        max_steps=arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        lora_rank=arguments.lora_rank,
        frozen_layers=arguments.frozen_layers,
        ranking=arguments.ranking,
        keep=arguments.keep,
        synthetic=arguments.synthetic,
        composed=arguments.composed,
        towards_tuned=arguments.towards_tuned,
    )
