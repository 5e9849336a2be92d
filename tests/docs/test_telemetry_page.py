"""The reference pages name every metric and every log line of the core, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conftest import Bench
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from semcache_core.observability import gauges
from semcache_core.observability import metrics as core_metrics
from semcache_core.testing import engine_of

ROOT = Path(__file__).parents[2]
CORE = ROOT / "shared" / "semcache_core"
REFERENCE = ROOT / "docs" / "reference"
LOG, TOLD = "log.warning", ("warn_once", "_warn_once")
PASSED_ON = {("monitor.py", "text"), ("counters.py", "text")}
"""Calls that log what they are given: those who give it are looked at themselves."""
GIVEN_BY = {"process.py": "why_exact_only"}
"""What is passed on in a variable, by those who log it."""


def first_cells(page: str) -> list[str]:
    text = (REFERENCE / page).read_text(encoding="utf-8").split("\n## Spans\n")[0]
    return re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


def template(node: ast.expr) -> str | None:
    """The text of a literal with … for what is filled in; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = re.sub(r"%[sdrg]", "…", node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(
            part.value if isinstance(part, ast.Constant) else "…" for part in node.values
        )
    else:
        return None
    return text.removeprefix("semcache: ").replace("`", "")


def calls(tree: ast.AST) -> Iterator[tuple[str, list[ast.expr]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.startswith("log.") or name.split(".")[-1] in TOLD:
                yield name, node.args


def logged(file: Path) -> Iterator[str]:
    """The texts that a file of the core logs."""
    for name, arguments in calls(ast.parse(file.read_text(encoding="utf-8"))):
        if name.startswith("log."):
            assert name == LOG, f"{file.name} logs by {name}"
            text = template(arguments[0])
            if text != "…":
                yield text or ast.unparse(arguments[0])
            else:  # what it passes on must be known here
                assert (file.name, ast.unparse(arguments[1])) in PASSED_ON
        elif name in ("self.warn_once", "self.counters.warn_once", "engine.counters.warn_once"):
            text = template(arguments[1])
            if text is None:
                assert GIVEN_BY[file.name] in ast.unparse(arguments[1])
            else:
                yield text


def literals() -> set[str]:
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in CORE.rglob("*.py"))
    found = (template(n) for tree in trees for n in ast.walk(tree) if isinstance(n, ast.expr))
    return {text for text in found if text}


def test_every_line_that_is_logged_is_in_the_table() -> None:
    lines = [line for file in sorted(CORE.rglob("*.py")) for line in logged(file)]
    assert len(lines) > 10
    assert sorted(set(lines) - set(first_cells("log-lines.md"))) == []


def test_every_line_of_the_table_is_in_the_source() -> None:
    assert sorted(set(first_cells("log-lines.md")) - literals()) == []


def test_what_is_passed_on_in_a_variable_is_in_the_table(bench: Bench) -> None:
    rows = first_cells("log-lines.md")
    for options in ({"artefact": None}, {"max_error_rate": 0.001}):
        why = engine_of(bench.open(**options)).why_exact_only
        pattern = "|".join(re.escape(row).replace("…", ".+") for row in rows)
        assert re.fullmatch(pattern, why), why


def test_every_metric_and_none_else_is_in_the_table(bench: Bench, monkeypatch: Any) -> None:
    names: list[str] = []

    class Noting:
        def __getattr__(self, create: str) -> Any:
            made = getattr(meter, create)
            return lambda name, *rest, **options: names.append(name) or made(name, *rest, **options)

    provider = MeterProvider()
    meter = provider.get_meter("semcache")
    monkeypatch.setattr(metrics, "get_meter", lambda name: Noting())
    bench.open()
    assert sorted(first_cells("metrics.md")) == sorted(names)
    provider.shutdown()


def test_the_attributes_of_results_stages_and_estimates_are_told() -> None:
    told = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    for value in (*core_metrics._OF_RESULT, *core_metrics._OF_STAGE, "stored", "refused"):
        assert value in told
    assert f"every {gauges.READ_EVERY_SECONDS:g} seconds" in told
