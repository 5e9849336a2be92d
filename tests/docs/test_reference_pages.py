"""The reference pages of settings and of the command line say what the code says.

To write them again after a change: `python tests/docs/test_reference_pages.py`.
"""

import ast
import inspect
import re
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.main
from semcache_core import CacheSettings, SemanticCache
from semcache_core.cli import app

ROOT = Path(__file__).parents[2]
SETTINGS = ROOT / "docs" / "reference" / "settings.md"
CLI = ROOT / "docs" / "reference" / "cli.md"
START = ("path", "max_error_rate", "namespace", "ttl")
DEFAULTS = {"path": "the user's cache directory, `~/.cache/semcache` on Linux"}
"""Defaults that depend on the machine."""
GUIDES = {
    "max_error_rate": "how-often-is-it-wrong.md",
    "namespace": "tenants.md",
    "ttl": "eviction.md",
    "path": "storage.md",
    "max_entries": "eviction.md",
    "max_bytes": "eviction.md",
    "max_response_bytes": "eviction.md",
    "eviction": "eviction.md",
    "artefact": "train-your-own.md",
    "ledger_url": "many-hosts.md",
    "audit_rate": "audits.md",
    "shadow": "audits.md",
    "confirmations": "poisoning-and-privacy.md",
    "scan_limit": "storage.md",
    "scan_memory_mb": "storage.md",
    "namespace_in_telemetry": "telemetry.md",
}


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(re.sub(" +", " ", f"| {' | '.join(line)} |\n") for line in lines)


def meanings() -> dict[str, str]:
    """Field of CacheSettings to the docstring below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(CacheSettings))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, doc in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            found[field.target.id] = doc.value.value  # type: ignore[attr-defined, union-attr]
    return found


def type_name(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    text = re.sub(r"typing\.Literal\[(.+)\]", lambda m: m[1].replace(", ", " | "), text)
    return re.sub(r"[\w.]*\bPath\b", "path", text)


def settings_table(names: list[str]) -> str:
    said = meanings()
    rows = []
    for name in names:
        field = CacheSettings.model_fields[name]
        default = DEFAULTS.get(name) or f"`{field.default}`"
        type_ = cell(type_name(field.annotation))
        guide = GUIDES[name]
        link = f"[{guide.removesuffix('.md')}](../{guide})"
        variable = f"`SEMCACHE_{name.upper()}`"
        meaning = cell(field.description or said[name])
        rows.append((f"`{name}`", f"`{type_}`", default, meaning, variable, link))
    return table(("setting", "type", "default", "meaning", "environment", "guide"), rows)


def settings_page() -> str:
    """The page with its two tables of settings written again."""
    rest = [name for name in CacheSettings.model_fields if name not in START]
    page = SETTINGS.read_text(encoding="utf-8")
    for title, names in (("Start with these four", list(START)), ("Rarely", rest)):
        pattern = rf"(\n## {title}\n\n).*?(\n## |\Z)"
        tables = settings_table(names)
        page = re.sub(pattern, lambda m, t=tables: m[1] + t + m[2], page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def option_row(parameter: Any) -> tuple[str, str, str]:
    if parameter.param_type_name == "argument":
        name = f"`{parameter.name.upper()}`"
    else:
        name = ", ".join(f"`{text}`" for text in (*parameter.opts, *parameter.secondary_opts))
    if parameter.required:
        default = "required"
    elif parameter.name == "path" and parameter.default is not None:
        default = "[the setting](settings.md)"
    elif parameter.default is None or isinstance(parameter.default, bool):
        default = "on" if parameter.default else ""
    else:
        default = f"`{parameter.default}`"
    return name, default, cell(parameter.help or "")


def cli_page() -> str:
    """The page with its part on each command written again."""
    intro = CLI.read_text(encoding="utf-8").split("\n## ")[0]
    parts = [intro]
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        rows = [
            option_row(p)
            for p in command.params
            if p.name != "help" and not getattr(p, "hidden", False)
        ]
        text = "\n".join(line.strip() for line in command.help.strip().splitlines())
        options = table(("argument or option", "default", "meaning"), rows)
        parts.append(f"\n## `semcache {name}`\n\n{text}\n\n{options}")
    return "".join(parts)


def test_the_page_of_settings_is_up_to_date() -> None:
    assert SETTINGS.read_text(encoding="utf-8") == settings_page()


def test_the_page_of_settings_lists_each_setting_once() -> None:
    listed = re.findall(r"^\| `(\w+)` \| `", SETTINGS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(CacheSettings.model_fields)


def test_the_page_of_settings_lists_the_other_arguments_of_a_cache() -> None:
    part = SETTINGS.read_text(encoding="utf-8").split("\n## Objects\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    parameters = inspect.signature(SemanticCache.__init__).parameters
    assert sorted(listed) == sorted(set(parameters) - {"self", "options"})


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    assert CLI.read_text(encoding="utf-8") == cli_page()


if __name__ == "__main__":
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    CLI.write_text(cli_page(), encoding="utf-8")
