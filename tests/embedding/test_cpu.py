"""How many cores a process may use."""

import os
from pathlib import Path

import pytest
from semcache_core.embedding import cpu
from semcache_core.embedding.cpu import usable_cores


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("cpu_max", "usable"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("", 8),
        ("200000", 8),
        ("many 100000", 8),
        ("200000 0", 8),
        ("-1 100000", 8),
        ("\x80", 8),
    ],
)
def test_a_containers_limit_counts_where_it_is_lower(
    cpu_max: str, usable: int, tmp_path: Path
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(cpu_max, encoding="latin-1")
    assert usable_cores(file) == usable


@pytest.mark.usefixtures("eight_cores")
def test_without_such_a_file_all_cores_of_the_process_are_its_own(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none") == 8


def test_where_affinity_is_unknown_the_machines_cores_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path / "none") == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "none") == 1
