"""The page: whole by itself, with every figure and text, and never half written."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fakes import WordEmbedder, calibration
from semcache_core.errors import TrainingError
from semcache_core.evaluation import evaluate, report_directory, write_report
from semcache_core.evaluation.evaluate import Evaluation
from semcache_core.evaluation.report import render, worst_false_hits, worst_false_misses
from semcache_core.training.data.records import Pair

MARKUP = '<script>alert("x")</script> & <b>'
VOID = {"meta", "img", "br", "link", "input", "hr"}


def pairs(n: int, domain: str = "") -> list[Pair]:
    topics = [f"topic{i}" for i in range(n)]
    return [Pair(f"what a{t} b{t}", f"what a{t} c{t}", 1, domain) for t in topics] + [
        Pair(f"what a{t} b{t}", f"d{t} a{t} e{t}", 0, domain) for t in topics
    ]


def made(some: list[Pair]) -> Evaluation:
    return evaluate(some, WordEmbedder(), calibration(), seeds=2, resamples=10)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    marked = [
        Pair(f"what {MARKUP}", f"what {MARKUP} it", 0, "<i>source"),
        Pair(f"who {MARKUP}", "\ud800 nothing of it", 1, "<i>source"),
    ]
    return made(pairs(60, "plain $n source") + marked)


@pytest.fixture(scope="module")
def page(evaluation) -> str:
    return render(evaluation)


class Read(HTMLParser):
    """The page as a browser finds it: balanced tags, their attributes, the text of each cell."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def row(read: Read, name: str) -> list[str]:
    (found,) = [cells for table in read.tables for cells in table if cells and cells[0] == name]
    return found


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    read = Read(page)
    names = {tag for tag, _ in read.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base"}
    sources = [attributes["src"] for tag, attributes in read.tags if "src" in attributes]
    assert len(sources) == 6
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    without_images = re.sub(r'src="data:[^"]*"', "", page)
    for elsewhere in ("http", "url(", "@import", "src=", "href="):
        assert elsewhere not in without_images
    assert all(attributes.get("alt") for tag, attributes in read.tags if tag == "img")
    assert ("meta", {"charset": "utf-8"}) in read.tags
    assert not re.search(r"\$[a-z]", read.text.replace("$n source", ""))


def test_figures_stand_with_their_intervals(page, evaluation):
    read, figures = Read(page), evaluation.figures
    assert "Evaluation on 122 pairs" in read.text
    for name, figure in (
        ("ROC AUC", figures.auc),
        ("Average precision", figures.average_precision),
        ("ROC AUC, hard subset", figures.hard_auc),
        ("P-CHR AUC", figures.p_chr_auc),
        ("Brier score", figures.brier),
        ("Expected calibration error", figures.ece),
    ):
        low, high = figure.interval
        assert row(read, name)[1:3] == [f"{figure.value:.3f}", f"{low:.3f} to {high:.3f}"]


def test_served_shares_stand_in_both_forms_with_the_errors_of_the_threshold(page, evaluation):
    read, forms = Read(page), evaluation.forms
    both = [cells for table in read.tables for cells in table if cells and cells[0] == "10%"]
    hindsight, threshold = both
    assert hindsight[1].startswith(f"{forms.all_answerable.served_at_error['0.10'].value:.1%} ")
    assert hindsight[2].startswith(f"{forms.half_missing.served_at_error['0.10'].value:.1%} ")
    assert threshold[1] == f"{calibration().threshold(0.1):.3f}"
    served = forms.half_missing.at_threshold["0.10"]
    assert threshold[4].startswith(f"{served.rightly_served.value:.1%} ")
    assert "serves nothing" in [cells[1] for t in read.tables for cells in t if cells[0] == "1%"]


def test_domains_and_slices_have_their_rows(page, evaluation):
    read = Read(page)
    asked = row(read, "plain $n source")
    served = evaluation.domains["plain $n source"].half_missing.served_at_error["0.05"]
    assert asked[1] == "60"
    assert asked[4].endswith(f"| {served.value:.1%}")
    one = evaluation.slices["wh-word: what"]
    cells = row(read, "wh-word: what")
    assert cells[1:3] == [str(one.n), str(one.positives)]
    assert cells[3].startswith(f"{one.auc.value:.3f} ")
    assert row(read, "source: <i>source")[3].strip() == "–"
    assert "wh-word: where" not in read.text, "an empty slice is left out"


def test_texts_are_escaped_and_read_back_as_they_were(page):
    assert "<script" not in page
    assert "<i>" not in page
    read = Read(page)
    false_hits, false_misses = read.tables[-2:]
    assert [f"what {MARKUP}", f"what {MARKUP} it"] in [cells[:2] for cells in false_hits]
    assert false_misses[1][0] == f"who {MARKUP}"


def test_the_worst_are_50_of_either_label_in_order(page, evaluation):
    hits, misses = worst_false_hits(evaluation), worst_false_misses(evaluation)
    assert len(hits) == len(misses) == 50
    similarity = evaluation.similarity
    assert (evaluation.label[hits] == 0).all()
    assert (evaluation.label[misses] == 1).all()
    assert (np.diff(similarity[hits]) <= 0).all()
    assert (np.diff(similarity[misses]) >= 0).all()
    assert similarity[hits].min() >= np.sort(similarity[evaluation.label == 0])[-50]
    assert similarity[misses].max() <= np.sort(similarity[evaluation.label == 1])[49]
    table = Read(page).tables[-2]
    assert len(table) == 51
    pair = evaluation.pairs[hits[0]]
    assert table[1] == [
        pair.prompt, pair.other,
        f"{similarity[hits[0]]:.3f}", f"{evaluation.probability[hits[0]]:.3f}",
    ]  # fmt: skip


def test_a_very_long_text_is_cut():
    long = replace(
        made(pairs(5)), pairs=tuple(Pair("w" * 5000, "x", p.same_answer) for p in pairs(5))
    )
    page = render(long)
    assert "w" * 600 + " …" in page
    assert "w" * 601 not in page


def test_an_evaluation_without_streams_says_so():
    few = made(pairs(12))
    read = Read(render(few))
    assert few.streams_note in read.text
    hindsight = next(cells for t in read.tables for cells in t if cells[0] == "5%")
    assert hindsight[1:] == ["–", "–"]


def test_the_same_evaluation_makes_the_same_page(page, evaluation):
    assert render(evaluation) == page


def test_the_report_is_written_into_a_new_directory_and_replaces_an_older_one(tmp_path, evaluation):
    target = tmp_path / "new" / "deeper"
    assert write_report(made(pairs(12)), str(target)) == target / "report.html"
    older = (target / "report.html").read_bytes()
    write_report(evaluation, target)
    written = (target / "report.html").read_text(encoding="utf-8")
    assert written.encode() != older
    # half a surrogate pair has no UTF-8
    assert written == render(evaluation).replace("\ud800", "?")
    assert [file.name for file in target.iterdir()] == ["report.html"]


def test_an_older_report_survives_a_failed_write(tmp_path, evaluation, monkeypatch):
    (tmp_path / "report.html").write_text("older")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(
        TrainingError, match=r"report.html cannot be written: .*No space left on device"
    ):
        write_report(evaluation, tmp_path)
    assert (tmp_path / "report.html").read_text() == "older"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_directory_that_is_a_file_is_an_error_naming_it(tmp_path, evaluation, below):
    file = tmp_path / "file"
    file.write_text("something else")
    for write in (report_directory, lambda path: write_report(evaluation, path)):
        with pytest.raises(TrainingError, match=r"the report cannot be written to .*file"):
            write(file / below)
    assert file.read_text() == "something else"


def test_a_directory_can_be_checked_before_the_evaluation(tmp_path):
    assert report_directory(tmp_path / "a") == tmp_path / "a"
    assert list((tmp_path / "a").iterdir()) == []


def test_drawing_leaves_the_settings_of_matplotlib_alone(evaluation):
    import matplotlib

    render(evaluation)
    # other tests have drawn before this one: what matters is what the user's settings started as
    for name in ("svg.hashsalt", "axes.grid", "font.size"):
        assert matplotlib.rcParams[name] == matplotlib.rcParamsDefault[name]
