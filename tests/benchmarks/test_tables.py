"""The pages of benchmarks and studies show what the JSON beside them says."""

from types import ModuleType

import pytest
import readme
import tables
from harness.results import replace_tables


@pytest.mark.parametrize("page", [readme, tables], ids=["benchmarks", "studies"])
def test_every_table_of_the_page_is_that_of_its_json(page: ModuleType) -> None:
    text = page.README.read_text(encoding="utf-8")
    assert text.count("<!-- table ") == text.count("<!-- end -->") > 5
    assert page.with_tables(text) == text


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "a\n\n<!-- table one -->\n\nold\n\n<!-- end -->\n\nb\n"
    new = replace_tables(text, {"one": lambda: "| new |"})
    assert new == "a\n\n<!-- table one -->\n\n| new |\n\n<!-- end -->\n\nb\n"
