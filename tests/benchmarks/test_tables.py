"""The pages of benchmarks and studies show what the JSON beside them says."""

from pathlib import Path

import pytest
import run
import tables
from harness.results import with_tables


@pytest.mark.parametrize(("page", "package"), [(run.README, "cases."), (tables.README, "")])
def test_every_table_of_the_page_is_that_of_its_json(page: Path, package: str) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- table ") == text.count("<!-- end -->") > 5
    assert with_tables(page, package) == text


def test_only_what_is_between_the_marks_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n\n<!-- table one -->\n\nold\n\n<!-- end -->\n\nb\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text('{"row": "| new |"}')
    (tmp_path / "one.py").write_text("def table(results): return results['row']\n")
    monkeypatch.syspath_prepend(tmp_path)
    new = "a\n\n<!-- table one -->\n\n| new |\n\n<!-- end -->\n\nb\n"
    assert with_tables(page) == new
