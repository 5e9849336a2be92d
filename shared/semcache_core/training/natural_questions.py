"""Natural Questions (Kwiatkowski et al. 2019) in its open form: the questions of the paper."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semcache_core.errors import TrainingError
from semcache_core.training.data.records import Question, parse_question, read_objects

HUB = "google-research-datasets/nq_open"
_EXAMPLE = '{"question": "...", "answer": ["..."]}'
_FILES = (".jsonl", ".json")


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
            'run: pip install "semcache-core[train]", or give a local file'
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
