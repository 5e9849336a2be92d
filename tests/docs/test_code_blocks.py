"""Every code block in README and docs runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from semcache_core.cli import app
from semcache_core.embedding import DEFAULT_ARTEFACT
from semcache_core.predictor import load_calibration
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[object]:
    return [
        pytest.param(code, id=f"{page.name}:{n}")
        for page in PAGES
        for n, (found, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
        if found == language
    ]


def test_every_block_has_a_language_that_a_test_runs() -> None:
    found = {lang for page in PAGES for lang, _ in BLOCK.findall(page.read_text("utf-8"))}
    assert found <= {"python", "bash", "text"}


@pytest.mark.parametrize("code", blocks("python"))
def test_python_block_runs_as_a_script(code: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_readme_example_gives_the_hits_its_comments_promise(tmp_path: Path) -> None:
    example = next(p.values[0] for p in blocks("python") if "set_llm_cache" in p.values[0])
    check = "\ns = get_llm_cache().stats()\nassert (s.misses, s.exact_hits, s.semantic_hits)"
    test_python_block_runs_as_a_script(f"{example}{check} == (1, 1, 1), s\n", tmp_path)


@pytest.mark.parametrize("code", blocks("bash"))
def test_shell_block_holds_only_commands_that_exist(code: str, tmp_path: Path) -> None:
    for line in code.strip().splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "semcache":
            run_semcache([str(tmp_path) if word == "DIR" else word for word in words[1:]])
        else:
            assert words[:2] == ["pip", "install"], line
            extra = re.fullmatch(r"semcache-core\[(\w+)\]", words[2])
            assert extra, line
            assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def run_semcache(arguments: list[str]) -> None:
    from semcache_core import Request, SemanticCache

    if "--path" in arguments:
        with SemanticCache(path=arguments[arguments.index("--path") + 1]) as cache:
            cache.update(Request("What is a cache?"), "A memory.")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output


def test_threshold_table_in_the_docs_is_the_shipped_one() -> None:
    page = (ROOT / "docs" / "how-a-hit-is-decided.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (0\.\d+)[^|]* \| (0\.\d+) \|$", page, re.MULTILINE)
    shipped = load_calibration(DEFAULT_ARTEFACT)
    measured = [row for row in shipped.thresholds if row.probability is not None]
    assert rows == [(f"{row.max_error_rate:g}", f"{row.probability:.3f}") for row in measured]
    assert f"({shipped.max_tokens} tokens for the shipped artefact)" in page
