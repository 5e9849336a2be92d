"""Figures as JSON and in tables, and the file they are written to."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from semcache_core.errors import TrainingError
from semcache_core.evaluation.metrics import Figure

Results = dict[str, Any]


def write(file: Path, results: Results | None) -> None:
    """Put the results in place in one step; None only tries whether that can be done."""
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
    """Indented JSON with each list of plain values on one line, which is how people read them."""
    text = json.dumps(results, indent=1, allow_nan=False)
    # no text in JSON has a bare line break, so what is matched is no text
    return re.sub(r"\[\n\s+[^\[\]{}]*?\n\s+\]", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    items = [item.strip() for item in found[0][1:-1].strip().split("\n")]
    return f"[{' '.join(items)}]"


def name_of(source: str) -> str:
    """A name as it is; of a path of this machine the last part only."""
    return Path(source).name if Path(source).exists() else source


def plain(tree: Any) -> Any:
    """What JSON can write; a Figure becomes {"value", "interval"}."""
    if isinstance(tree, Figure):
        return {"value": rounded(tree.value), "interval": rounded(tree.interval)}
    if is_dataclass(tree) and not isinstance(tree, type):
        tree = vars(tree)  # asdict would take the figures in it apart too
    if isinstance(tree, dict):
        return {name: plain(branch) for name, branch in tree.items()}
    return rounded(tree)


def rounded(value: Any) -> Any:
    """To the fifth digit, well below what any interval tells apart."""
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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
