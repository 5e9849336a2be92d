"""The file in which entries travel: what is read, what is refused and how that is said."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from semcache_core.errors import SemcacheError
from semcache_core.storage.entries import ListedEntry
from semcache_core.transfer import jsonl
from semcache_core.transfer.jsonl import EntriesFile, Header, LogLine, entry_line, header_line
from semcache_core.types import MOST_TOKENS

UNIT = base64.b64encode(np.array([0.6, 0.8], "<f4").tobytes()).decode()
HEADER: dict[str, Any] = {
    "format": "semcache entries",
    "version": 1,
    "exported": 5.0,
    "fingerprint": "model",
    "dimension": 2,
}
LINE: dict[str, Any] = {
    "namespace": "default",
    "scope": "",
    "question": "a?",
    "response": "b",
    "created": 100.0,
}
HEX = "0f" * 32
HUGE = 10**400


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: dict[str, Any] | bytes) -> Path:
        file = tmp_path / "e.jsonl"
        file.write_bytes(
            b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines)
        )
        return file

    return write


def read(file: Path) -> list[LogLine]:
    with EntriesFile(file) as source:
        return [entry for entry, _ in source]


def refusal(file: Path) -> str:
    with pytest.raises(SemcacheError) as raised:
        read(file)
    return str(raised.value)


# -- written and read back -------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
TIME = st.floats(allow_nan=False, allow_infinity=False)
AMOUNT = st.floats(0, allow_nan=False, allow_infinity=False)
KEY = st.binary(min_size=32, max_size=32)
LISTED = st.builds(
    ListedEntry,
    id=st.integers(1),
    namespace=TEXT.filter(bool),
    scope=TEXT,
    exact_only=st.booleans(),
    question=TEXT,
    response=TEXT,
    created=TIME,
    expires=st.none() | TIME,
    hits=st.just(0),
    cost=st.none() | AMOUNT,
    tokens_in=st.none() | st.integers(0, 10**12),
    tokens_out=st.none() | st.integers(0, 10**12),
    seconds=st.none() | AMOUNT,
    answer_text=st.none() | TEXT,
    doubt=st.floats(0, 64),
    writer=st.none() | TEXT,
    exact_only_since=st.none() | TIME,
    tags=st.lists(TEXT).map(tuple),
    wrong_for=st.lists(KEY).map(tuple),
    same_as=st.none() | st.tuples(KEY, KEY),
    fingerprint=st.just("model"),
    vector=st.none() | st.sampled_from([[1, 0], [0.6, -0.8]]).map(lambda v: np.array(v, "f4")),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("portable") / "e.jsonl"


@given(st.lists(LISTED, max_size=3))
def test_whatever_is_written_is_read_back(scratch: Path, entries: list[ListedEntry]) -> None:
    lines = [entry_line(entry, with_vector=True) for entry in entries]
    scratch.write_bytes(
        header_line(Header(exported=5.0, fingerprint="model", dimension=2)) + b"".join(lines)
    )
    found = read(scratch)
    assert len(found) == len(entries)
    for one, entry in zip(found, entries, strict=True):
        told = {**vars(one), "answer_text": one.answer}
        for name in (n for n in told if n not in ("vector", "answer")):
            assert told[name] == getattr(entry, name)
        assert (one.vector is None) == (entry.vector is None)
        assert one.vector is None or np.array_equal(one.vector, entry.vector)


def test_two_lone_surrogates_do_not_become_one_character(write: Any) -> None:
    line = json.dumps({"question": "\ud83d" + "\ude00", "response": "b"}, ensure_ascii=False)
    (found,) = read(write(line.encode("utf-8", "surrogatepass")))
    assert len(found.question) == 2


def test_a_line_without_a_vector_has_none_also_where_the_entry_has() -> None:
    entry = ListedEntry(
        id=1, namespace="n", scope="", question="q", response="r", created=1.0, hits=0,
        fingerprint="model", vector=np.array([1, 0], np.float32),
    )  # fmt: skip
    assert b"vector" not in entry_line(entry, with_vector=False)
    assert json.loads(entry_line(entry, with_vector=False)) == {
        "namespace": "n", "scope": "", "question": "q", "response": "r", "created": 1.0,
    }  # fmt: skip


def test_the_header_says_when_and_by_which_model(write: Any) -> None:
    with EntriesFile(write(HEADER, LINE)) as source:
        assert source.header == Header(exported=5.0, fingerprint="model", dimension=2)
    bare = {name: HEADER[name] for name in ("format", "version", "exported")}
    with EntriesFile(write(bare)) as source:
        assert source.header == Header(exported=5.0)
        assert source.check() == 0
    assert (
        header_line(Header(exported=5.0, fingerprint="model", dimension=2))
        == json.dumps(HEADER).encode() + b"\n"
    )


def test_a_file_is_read_as_often_as_it_is_iterated_over(write: Any) -> None:
    with EntriesFile(write(HEADER, b"", LINE, b" \r", LINE, b"")) as source:
        assert source.check() == 2
        assert [entry.question for entry, _ in source] == ["a?", "a?"]
        assert [size for _, size in source] == [len(json.dumps(LINE)) + 1] * 2


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("response", ["", "a\ud800"], [5, ["a"]]),
        ("exact_only", [True, False], [1, 0, "true"]),
        ("namespace", ["a", "\ud800"], ["", 5, []]),
        ("tokens_in", [0, MOST_TOKENS], [-1, MOST_TOKENS + 1, 1.0, True, "1", HUGE]),
        ("doubt", [0, 64, 1.5], [-0.1, 64.1, True, "1"]),
        ("created", [0, -1e300], [HUGE, True, "1"]),
        ("tags", [[], ["a", "\ud800"]], ["a", {}, ["a", 5]]),
        ("wrong_for", [[], [HEX]], [HEX, [HEX[:-2]], ["0g" * 32], ["ü" * 64], [5]]),
        ("same_as", [{"request": HEX, "answer": HEX}], [{"request": HEX, "answer": 5}, [HEX, HEX]]),
        ("vector", [UNIT], ["Y", "YQ", "Y Q==", "ü", "YQ==", "YQ==\ud800", 5]),
    ],
)
def test_a_value_is_read_or_refused(name: str, good: list[Any], bad: list[Any], write: Any) -> None:
    for value in good:
        assert len(read(write(HEADER, {**LINE, name: value}))) == 1
    for value in bad:
        text = refusal(write(HEADER, {**LINE, name: value}))
        assert f"e.jsonl, line 2: {name} is " in text and "; give " in text


# -- a log of answers ------------------------------------------------------------------------------


def test_a_log_needs_no_header_and_no_more_than_question_and_response(write: Any) -> None:
    file = write(
        b"\xef\xbb\xbf" + b'{"question": "a?", "response": "b", "model": "m", "doubt": "x"}'
    )
    assert read(file) == [LogLine(question="a?", response="b")]


def test_a_log_may_say_more(write: Any) -> None:
    told = {"namespace": "n", "scope": "s", "tags": ["t"], "created": 5, "expires": 9, "cost": 0}
    usage = {"tokens_in": 5, "tokens_out": 0, "seconds": 0.5}
    line = {"question": "a?", "response": "b", "exact_only": True, "writer": "w", "answer": "c"}
    (found,) = read(write({**line, **told, **usage, "vector": UNIT, "wrong_for": 5}))
    assert found == LogLine(
        question="a?", response="b", namespace="n", scope="s", exact_only=True, created=5.0,
        expires=9.0, cost=0.0, tokens_in=5, tokens_out=0, seconds=0.5, tags=("t",), writer="w",
        answer="c",
    )  # fmt: skip


def test_an_empty_file_is_a_log_of_nothing(write: Any) -> None:
    with EntriesFile(write(b"\n\n")) as source:
        assert source.header is None
        assert source.check() == 0


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"question": None}, "question is missing"),
        ({"response": None}, "response is missing"),
        ({"namespace": None}, "namespace is missing"),
        ({"scope": None}, "scope is missing"),
        ({"created": None}, "created is missing"),
        ({"question": 5}, "question is 5; give a text"),
        ({"namespace": ""}, "namespace is ''; give a text that is not empty"),
        ({"exact_only": 1}, "exact_only is 1; give true or false"),
        ({"expires": "soon"}, "expires is 'soon'; give seconds since the epoch"),
        ({"cost": [5]}, "cost is a list; give a number from 0 on"),
        ({"cost": -1}, "cost is -1; give a number from 0 on"),
        ({"seconds": "1"}, "seconds is '1'; give a number from 0 on"),
        ({"tokens_in": 1.5}, "tokens_in is 1.5; give a whole number from 0"),
        ({"tokens_out": 10**13}, "tokens_out is 10000000000000; give a whole number from 0"),
        ({"tags": "t"}, "tags is 't'; give a list of texts"),
        ({"doubt": -1}, "doubt is -1; give log-odds from 0 to 64"),
        ({"wrong_for": ["0f"]}, "wrong_for is a list; give a list of keys"),
        ({"same_as": {"request": HEX}}, "same_as is a dict; give {"),
        ({"same_as": {"request": HEX, "answer": HEX, "more": 5}}, "same_as is a dict; give {"),
        ({"vector": "x"}, "vector is 'x'; give float32 numbers in base64"),
        ({"exactonly": True}, "'exactonly' is no field of an entry; those are question, "),
    ],
)
def test_a_field_that_cannot_be_read_is_named_with_its_line(
    changes: dict[str, Any], said: str, write: Any
) -> None:
    text = refusal(write(HEADER, LINE, b"", {**LINE, **changes}))
    assert "e.jsonl, line 4: " in text and said in text


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([1.0], "its vector has 4 bytes, but the header says 2 numbers"),
        ([0.6, 0.81], "its vector has the length 1.00"),
        ([0.0, 0.0], "its vector has the length 0"),
        ([float("nan"), 0.0], "its vector has the length nan"),
        ([float("inf"), 0.0], "its vector has the length inf"),
    ],
)
def test_a_vector_must_be_a_unit_vector_of_the_headers_dimension(
    numbers: list[float], said: str, write: Any
) -> None:
    vector = base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()
    assert f"line 2: {said}" in refusal(write(HEADER, {**LINE, "vector": vector}))


def test_a_vector_of_no_model_is_refused(write: Any) -> None:
    bare = {name: HEADER[name] for name in ("format", "version", "exported")}
    assert "line 2: it has a vector" in refusal(write(bare, {**LINE, "vector": UNIT}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "format version 2, this program reads up to 1; upgrade semcache-core"),
        ({"version": 0}, "version is 0; give a whole number from 1 to 1"),
        ({"version": True}, "version is True"),
        ({"version": None}, "version or exported is missing"),
        ({"exported": None}, "version or exported is missing"),
        ({"fingerprint": None}, "give both fingerprint and dimension"),
        ({"dimension": None}, "give both fingerprint and dimension"),
        ({"dimension": 1 << 40}, "dimension is 1099511627776; give a whole number from 1 to"),
        ({"fingerprint": ""}, "fingerprint is ''"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(
    changes: dict[str, Any], said: str, write: Any
) -> None:
    text = refusal(write({**HEADER, **changes}, LINE))
    assert "e.jsonl, line 1: " in text and said in text


def test_a_second_header_is_refused(write: Any) -> None:
    assert "line 3: 'dimension' is no field of an entry" in refusal(write(HEADER, LINE, HEADER))


def test_a_line_that_is_too_long_is_refused_without_reading_the_rest_of_it(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(LINE).encode()
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", len(line) + 1)
    assert len(read(write(line, line))) == 2
    assert "line 1 has more than" in refusal(write(line.replace(b"}", b" }"), line))


@pytest.mark.parametrize("name", ["nowhere", "a\0b", "directory"])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(SemcacheError, match="cannot be read"):
        EntriesFile(tmp_path / name)


def test_a_pipe_is_refused_as_it_cannot_be_read_twice() -> None:
    reading, writing = os.pipe()
    try:
        os.write(writing, b"{}")
        with pytest.raises(SemcacheError, match="save it to a file first"):
            EntriesFile(f"/dev/fd/{reading}")
    finally:
        os.close(reading)
        os.close(writing)
