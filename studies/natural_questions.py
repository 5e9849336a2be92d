"""Natural Questions, as in arXiv 2402.01173: mine, label, keep what is hard, tune, measure.

python studies/natural_questions.py
python studies/natural_questions.py --data nq_open_dev.jsonl

Without --data the 87,925 questions of nq_open are loaded from the hub. Here two questions have
the same answer when their known short answers meet; the paper had GPT-4 judge them. The untuned
model is at chance on the hard set, by construction. How long it took stands in the results.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from arms import Arm, Bench, conduct_training, training_parser
from runner import Results, at_least_one, counts, limited, markdown, name_of, plain, shown
from semcache_core.errors import TrainingError
from semcache_core.evaluation import metrics
from semcache_core.training.calibration.streams import similarities_of
from semcache_core.training.data.labelling import label_by_answers
from semcache_core.training.data.mining import NEAR_DUPLICATE, hard_subset, mine
from semcache_core.training.data.records import (
    MinedPair,
    Pair,
    Question,
    parse_question,
    read_objects,
)

HUB = "google-research-datasets/nq_open"
_EXAMPLE = '{"question": "...", "answer": ["..."]}'
_FILES = (".jsonl", ".json")


def main(argv: Sequence[str] | None = None) -> None:
    made = training_parser(__doc__, "natural_questions", steps=100)
    add = made.add_argument
    add("--data", default=HUB, help="a data set of the hub, or a local file like nq_open's")
    add("--hub-split", default="train", help="which split of the hub's data set")
    add("--neighbours", type=at_least_one, default=10, help="nearest questions each is paired with")
    add("--near-duplicate", type=float, default=NEAR_DUPLICATE, help="cosine kept in one split")
    add("--test-share", type=float, default=0.3, help="of the questions; the rest is trained on")
    conduct_training(study, table, made.parse_args(argv))


def study(bench: Bench) -> Results:
    arguments = bench.arguments
    questions = limited(
        load_natural_questions(arguments.data, arguments.hub_split), arguments.limit, arguments.seed
    )
    untuned = bench.untuned()
    mined = mined_pairs(bench, questions, untuned)
    hard = hard_subset(mined, seed=arguments.seed)
    train, test, all_test = of(hard, "train"), of(hard, "test"), of(mined, "test")
    if not train or not test:
        raise TrainingError(
            f"{len(questions)} questions gave {len(train)} hard pairs to train on and {len(test)} "
            "to test on; give more questions, or another --test-share"
        )
    return {
        "study": "Natural Questions, as in the paper",
        "data": {
            "source": name_of(arguments.data),
            "questions": len(questions),
            "hard, train": counts(train),
            "hard, test": counts(test),
            "mined, test": counts(all_test),
        },
        "split": "questions with a common answer, or nearly the same wording, together; "
        "neighbours are sought within a split",
        "arms": {
            arm.name: {"training": arm.training, **measure(bench, arm, test, all_test)}
            for arm in chain([untuned], bench.tuned(train))
        },
    }


def mined_pairs(bench: Bench, questions: list[Question], untuned: Arm) -> list[MinedPair]:
    """Nearest neighbours to the untuned model within each split, labelled by the known answers."""
    share = bench.arguments.test_share
    pairs = mine(
        questions,
        untuned.embedder,
        neighbours=bench.arguments.neighbours,
        shares=(1 - share, 0.0, share),
        near_duplicate=bench.arguments.near_duplicate,
        seed=bench.arguments.seed,
        progress=bench.tell(untuned.name),
    )
    return label_by_answers(pairs)


def of(pairs: Sequence[MinedPair], split: str) -> list[Pair]:
    return [pair.labelled() for pair in pairs if pair.split == split]


def measure(bench: Bench, arm: Arm, hard: list[Pair], mined: list[Pair]) -> Results:
    figure = partial(
        metrics.measured, seed=bench.arguments.seed, resamples=bench.arguments.resamples
    )
    found = {}
    for name, pairs in (("hard", hard), ("mined", mined)):
        similarity = similarities_of(arm.embedder, pairs)
        label = np.array([pair.same_answer for pair in pairs])
        found[name] = {
            "auc": figure(metrics.auc, similarity, label),
            "average_precision": figure(metrics.average_precision, similarity, label),
        }
    figures: Results = plain(found)
    return figures


def load_natural_questions(source: str | Path = HUB, split: str = "train") -> list[Question]:
    """Questions with their short answers, each a text or several wordings, in the source's order.

    `source` is a data set of the Hugging Face hub in the form of nq_open, of which `split` is
    loaded ("train" has 87,925 questions, "validation" 3,610), or a local file of lines like
    `{"question": str, "answer": [str, ...]}`, which has no splits. A Path, a name that ends in
    .jsonl or .json, and whatever exists as a file are local.

    Two questions have the same answer when their normalised answers meet (`same_known_answer`);
    arXiv 2402.01173 mines its pairs from these questions and has them judged by GPT-4 instead.

    Raises TrainingError for a missing `datasets` package, a hub that cannot be reached or does not
    have the data set, and naming line or row for what is no question with an answer.
    """
    if isinstance(source, Path) or source.endswith(_FILES) or Path(source).is_file():
        rows = read_objects(source, _EXAMPLE)
    else:
        rows = _from_hub(source, split)
    questions = [_question(row, where) for where, row in rows]
    if not questions:
        raise TrainingError(f"{source} holds no questions; give rows like {_EXAMPLE}")
    return questions


def _question(row: dict[str, Any], where: str) -> Question:
    question = parse_question(row, where)
    if not question.answers:
        raise TrainingError(f"{where}: there is no answer; give rows like {_EXAMPLE}")
    return question


def _from_hub(name: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise TrainingError(
            f"loading {name!r} from the hub needs datasets; "
            "run: pip install datasets, or give a local file"
        ) from None
    try:
        rows = list(load_dataset(name, split=split))
    # whatever datasets, the hub's client and the network raise: no common base covers them
    except Exception as error:
        raise TrainingError(
            f"the split {split!r} of {name!r} cannot be loaded from the hub: {error}; check name, "
            f"split and network, or give a local file of lines like {_EXAMPLE}"
        ) from error
    for number, row in enumerate(rows):
        where = f"{name} ({split}), row {number}"
        if not isinstance(row, Mapping):
            raise TrainingError(f"{where} is {row!r}; the data set must have rows like {_EXAMPLE}")
        yield where, dict(row)


def table(results: Results) -> str:
    rows = [
        (name, *(shown(arm[part][figure]) for part, figure in COLUMNS))
        for name, arm in results["arms"].items()
    ]
    return markdown(("model", "hard AUC", "AUC of all mined", "AP of all mined"), rows)


COLUMNS = (("hard", "auc"), ("mined", "auc"), ("mined", "average_precision"))


if __name__ == "__main__":
    main()
