"""Links in README and docs lead to files and headings that exist; guides stay short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = sorted(DOCS.glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in ("benchmarks/README.md", "examples/service/README.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
REPOSITORY = re.findall(r'^Source = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[
    0
]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def problem(target: str, page: Path) -> str | None:
    """What is wrong with a link, or None. Links to other sites are not followed."""
    if target.startswith(REPOSITORY):
        found = re.fullmatch(r"(?:/(?:blob|tree)/main/(.+)|/issues)?", target[len(REPOSITORY) :])
        if found is None:
            return f"{target} is not /blob/main/FILE"
        if found[1] is None:
            return None
        name, _, anchor = found[1].partition("#")
        file = ROOT / name
    elif "://" in target:
        return None
    else:
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
    if not file.exists():
        return f"{target}: there is no such file"
    if anchor and anchor not in anchors(file):
        return f"{target}: there is no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [why for target in targets if (why := problem(target, page))] == []


def test_readme_has_no_relative_links_as_pypi_shows_it_too() -> None:
    targets = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []


def test_readme_lists_every_page_of_the_docs() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md")]
    assert [page for page in pages if f"/{page})" not in readme] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.name)
def test_a_guide_has_at_most_a_thousand_words(guide: Path) -> None:
    words = guide.read_text(encoding="utf-8").split()
    assert len([word for word in words if re.search(r"\w", word)]) <= 1000


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = (DOCS / "threat-model.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/test_[a-z_]+)`", text)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / "tests" / f"{name}.py").exists()] == []
