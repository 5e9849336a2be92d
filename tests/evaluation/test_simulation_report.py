"""The page of a simulation: whole, harmless whatever the names, and never half written."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from semcache_core.errors import TrainingError
from semcache_core.evaluation.policies import ExactOnly
from semcache_core.evaluation.replay import Arrival
from semcache_core.evaluation.report import SIMULATION_FILE, write_simulation_report
from semcache_core.evaluation.simulation import Gain, Rate, Simulation, simulate

STREAM = [Arrival(f"question {i % 3}", f"answer {i % 3}") for i in range(40)]


def simulation(*names: str, **changes) -> Simulation:
    return simulate(STREAM, [(ExactOnly(name), None) for name in names], **changes)


class Page(HTMLParser):
    """The rows of the table, the text of everything, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.said, self.tags = [], [], []
        self.feed(text)
        self.text = " ".join(self.said)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.said.append(data)
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def page_of(written, directory) -> tuple[str, Page]:
    text = write_simulation_report(written, directory).read_text(encoding="utf-8")
    return text, Page(text)


def test_every_arm_has_a_row_with_its_figures_and_intervals(tmp_path):
    _, page = page_of(simulation("one", "two"), tmp_path)
    assert len(page.rows) == 3
    assert all(len(row) == 10 for row in page.rows)
    # 37 of 40 are repeats
    assert page.rows[1][0].startswith("one")
    assert page.rows[1][1].startswith("92.5 %(80.1 to 97.4)")
    assert page.rows[1][2] == ""
    assert page.rows[2][2] == "+0.0(0.0 to 0.0)"
    assert page.rows[1][4] == "37"
    assert page.rows[1][8].startswith("37")


def test_figures_are_put_in_their_columns(tmp_path):
    shown = simulation("one", "two")
    arm = replace(
        shown.arms[1],
        caching_efficiency=Rate(0.11, 0.10, 0.12, 40), gain=Gain(-0.021, -0.03, -0.01),
        hit_rate=Rate(0.22, 0.2, 0.3, 40), exact_hits=1234, semantic_hits=5,
        false_hit_rate=Rate(0.33, 0.3, 0.4, 5), wrong_rate=Rate(0.044, 0.04, 0.05, 40),
        cost_saved=-7.5, cost_saved_share=-0.06, seconds_saved=600.0, setting="as told",
    )  # fmt: skip
    _, page = page_of(replace(shown, arms=(shown.arms[0], arm)), tmp_path)
    assert page.rows[2][:-1] == [
        "twoas told", "11.0 %(10.0 to 12.0)", "-2.1(-3.0 to -1.0)", "22.0 %(20.0 to 30.0)",
        "1,234", "5", "33.0 %(30.0 to 40.0)", "4.4 %(4.0 to 5.0)", "-7.5-6.0 %",
    ]  # fmt: skip
    assert page.rows[2][-1].startswith("10 min")


def test_what_was_never_served_has_no_rate(tmp_path):
    _, page = page_of(simulation("one"), tmp_path)
    assert page.rows[1][6] == "none served"


def test_what_was_assumed_is_said(tmp_path):
    shown = simulation("one", capacity=2, cost_per_call=0.25, seconds_per_call=3, cost_of_wrong=8)
    _, page = page_of(shown, tmp_path)
    for said in ("40 requests", "3 different questions", "room for 2 entries", "costs 0.25",
                 "takes 3 s", "wrong answer costs 8", "92.5 % of the requests"):  # fmt: skip
        assert said in page.text


def test_each_arm_is_drawn_in_its_own_colour_in_both_plots(tmp_path):
    text, _ = page_of(simulation("one", "two", "three"), tmp_path)
    plots = [plot for plot in re.findall(r"<svg.*?</svg>", text, re.S) if "key" not in plot[:40]]
    assert len(plots) == 2
    for plot in plots:
        for colour in ("#000000", "#0072b2", "#d55e00"):
            assert re.search(rf"fill: none; stroke: {colour}", plot)


def test_names_are_text_and_never_markup_or_formulas(tmp_path):
    names = ["<script>alert(1)</script>", "$x_", "_hidden", 'a "b" & c', "\ud800"]
    text, page = page_of(simulation(*names), tmp_path)
    assert "script" not in [tag for tag, _ in page.tags]
    assert "<script>" not in text
    for name in names[:-1]:
        assert any(row[0].startswith(name) for row in page.rows)
        assert page.text.count(name) == 3  # in the table and in both legends


def test_the_page_needs_no_other_file(tmp_path):
    text, page = page_of(simulation("one"), tmp_path)
    assert not {"img", "link", "script", "iframe"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")
    assert "url(http" not in text
    assert "@import" not in text


def test_the_directory_is_made_and_an_older_page_replaced(tmp_path):
    directory = tmp_path / "new" / "report"
    write_simulation_report(simulation("older one"), directory)
    text, _ = page_of(simulation("newer one"), str(directory))
    assert "newer one" in text
    assert "older one" not in text
    assert [file.name for file in directory.iterdir()] == [SIMULATION_FILE]


def test_a_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(TrainingError, match="cannot be written"):
        write_simulation_report(simulation("one"), tmp_path / "report")
    assert (tmp_path / "report").read_text() == "mine"


def test_a_full_disk_keeps_the_older_page(tmp_path, monkeypatch):
    older = write_simulation_report(simulation("one"), tmp_path)
    before = older.read_text()

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(older), "replace", full)
    with pytest.raises(TrainingError, match="No space left"):
        write_simulation_report(simulation("two"), tmp_path)
    assert older.read_text() == before
