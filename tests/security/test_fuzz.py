"""Everything that reads what somebody else may have written gets tampered inputs.

A parser gives its result, or raises an error that it promises. `make fuzz` tries many more inputs.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from mutations import VALUES, changed, changed_json, changed_line, changed_text
from semcache_core import Request, SemcacheError
from semcache_core.decision.calibration import load_calibration
from semcache_core.decision.guard import differences, read
from semcache_core.decision.same_answer import answer_digest
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT
from semcache_core.errors import ArtefactError, LedgerError, RequestError, SettingsError
from semcache_core.request import key_of, split_question
from semcache_core.search.chroma import ChromaIndex
from semcache_core.settings import settings_from
from semcache_core.storage.database import parsed_url
from semcache_core.storage.lookups import UNREADABLE, _entry, _stored, vectors_from
from semcache_core.transfer.jsonl import Header, _header, parse_object
from semcache_core.transfer.jsonl import _entry as portable_entry

from langchain_semcache.model_identity import read_llm_string
from langchain_semcache.request import read_prompt
from langchain_semcache.serialization import dump_generations, load_generations
from llamaindex_semcache.serialization import ChatAnswers, CompletionAnswers

pytestmark = pytest.mark.filterwarnings("ignore")

tampered = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

LINE = {
    "namespace": "n",
    "scope": "s",
    "question": "where is Basel?",
    "response": "on the Rhine",
    "created": 100.0,
    "expires": 200.0,
    "tags": ["a", "b"],
    "doubt": 0.5,
    "wrong_for": ["0f" * 32],
    "vector": "mpkZP83MTD8=",
    "tokens_in": 4,
    "cost": 0.1,
}
HEADER = {"format": "semcache entries", "version": 1, "exported": 5.0, "dimension": 2}
HEADERS = [
    None,
    Header(exported=5.0, fingerprint="model", dimension=2),
    Header(exported=5.0, fingerprint="model", dimension=3),
    Header(exported=5.0),
]
CALIBRATION = json.loads((DEFAULT_ARTEFACT / "calibration.json").read_text())
MESSAGES = json.loads(
    dumps([SystemMessage("be brief"), HumanMessage("where is Basel?"), AIMessage("there")])
)
CALL = {"name": "t", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
ANSWERS: list[Any] = [
    [ChatGeneration(message=AIMessage("on the Rhine", response_metadata={"model": "m"}))],
    [ChatGeneration(message=AIMessage("", tool_calls=[CALL]))],
    [Generation(text="on the Rhine")],
]
GENERATIONS = [json.loads(dump_generations(answer)) for answer in ANSWERS]
CHAT = ChatResponse(message=ChatMessage(role="assistant", content="on the Rhine"))
MODEL = {"lc": 1, "type": "constructor", "id": ["a", "B"], "kwargs": {"model": "m", "n": 1}}
SETTINGS = {"path": "x", "max_error_rate": 0.02, "namespace": "n", "ttl": 5.0, "max_entries": 9}
REQUEST = {"question": "q", "scope": "s", "namespace": "n", "tags": ("a",), "writer": "w"}
REPLY = {"ids": [["1", "2", "3"]], "distances": [[0.0, 0.1, 0.2]]}
TEXT = "Where can I not pay 1,000.5 EUR with card A-17 in Zürich? Context: use `x != y`"
WORDS = TEXT.split()

import_lines = st.tuples(changed_line(LINE), st.sampled_from(HEADERS))
# the texts of generations are JSON inside JSON
generations = st.sampled_from(GENERATIONS).flatmap(
    lambda stored: (
        st.tuples(*(changed(json.loads(one)).map(json.dumps) for one in stored)).map(json.dumps)
        | changed_json(stored)
    )
)
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).flatmap(
    lambda words: changed_text(" ".join(words))
)


def read_import_line(case: tuple[bytes, Any]) -> None:
    line, header = case
    portable_entry(parse_object(line, "line 1", "{}"), "line 1", header)


def read_import_header(line: bytes) -> None:
    _header("line 1", line)


def read_generations(text: str) -> None:
    assert all(isinstance(one, Generation) for one in load_generations(text))


def read_chat(text: str) -> None:
    assert type(ChatAnswers().load(text, None)) is ChatResponse


def read_completion(text: str) -> None:
    assert type(CompletionAnswers().load(text, None)) is CompletionResponse


def read_messages(text: str) -> None:
    read_prompt(text, split_question)


def read_request(fields: Any) -> None:
    assert len(key_of(Request(**fields), "default").exact) == 32


def read_texts(case: tuple[str, str]) -> None:
    one, other = case
    differences(read(one), read(other))
    split_question(one)
    answer_digest(other)


UNIT = np.array([0.6, 0.8], np.float32).tobytes()
ODD: list[Any] = [None, 0, -1, 2**63 - 1, 1.5, "a", b"", b"\xff", UNIT, UNIT * 2, bytes(8)]


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[Any], list[Any], Any]:
    """A row of an entry, one of a candidate, and a vector; a value of each row is replaced."""
    entry: list[Any] = [1, b"q", b"r", 5.0, None]
    stored: list[Any] = [1, UNIT, b"q", 1, None, 0.0, None, None, 0]
    for row in (entry, stored):
        row[draw(st.integers(0, len(row) - 1))] = draw(st.sampled_from(ODD))
    return entry, stored, draw(st.sampled_from(ODD))


def read_rows(case: tuple[list[Any], list[Any], Any]) -> None:
    entry, stored, vector = case
    vectors = vectors_from([vector, UNIT], 2)
    assert vectors.shape == (2, 2) and np.isfinite(vectors).all()
    with suppress(UNREADABLE):
        assert abs(float(np.linalg.norm(_stored(stored).vector)) - 1) < 0.01
    _entry(entry)


class Replying:
    """A client of Chroma that gives one reply to every query."""

    id = "one"
    configuration_json: Any = None

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def get_collection(self, *args: Any, **kwargs: Any) -> Any:
        self.configuration_json = {"hnsw": {"space": "cosine"}}
        return self

    def query(self, **asked: Any) -> Any:
        return self.reply


def read_reply(reply: Any) -> None:
    client: Any = Replying(reply)
    found = ChromaIndex(client, 1, "f" * 64).nearest(b"p" * 32, np.zeros(2, np.float32), 2)
    assert len(found) <= 2 and all(0 < entry_id < 2**63 for entry_id, _ in found)


Errors = tuple[type[Exception], ...]
PARSERS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], object], Errors]] = {
    "import line": (import_lines, read_import_line, (SemcacheError,)),
    "import header": (changed_line(HEADER), read_import_header, (SemcacheError,)),
    # all of these are Exceptions, which the adapters count as a miss
    "generations of LangChain": (generations, read_generations, (Exception,)),
    "chats of LlamaIndex": (
        changed_json(json.loads(ChatAnswers().dump(CHAT))),
        read_chat,
        (Exception,),
    ),
    "completions of LlamaIndex": (
        changed_json(json.loads(CompletionAnswers().dump(CompletionResponse(text="a")))),
        read_completion,
        (Exception,),
    ),
    "messages of LangChain": (changed_json(MESSAGES), read_messages, (SemcacheError,)),
    "model as LangChain describes it": (
        st.builds("{}---{}".format, changed_json(MODEL), changed_text("[(chr(39), None)]")),
        read_llm_string,
        (),
    ),
    "settings": (
        changed(SETTINGS).filter(lambda options: isinstance(options, dict) and all(options)),
        settings_from,
        (SettingsError,),
    ),
    "ledger_url": (
        changed_text("sqlite:////srv/cache/ledger.sqlite3?timeout=5"),
        parsed_url,
        (LedgerError,),
    ),
    "request, namespace, tags": (
        st.tuples(
            st.sampled_from(sorted(REQUEST)),
            st.sampled_from([*VALUES, ("a", 1), ["a"], [None]]),
        ).map(lambda one: {**REQUEST, one[0]: one[1]}),
        read_request,
        (RequestError,),
    ),
    "questions and answers": (st.tuples(sentences, sentences), read_texts, ()),
    "rows of the ledger": (rows(), read_rows, (LedgerError,)),
    "replies of Chroma": (changed(REPLY), read_reply, (SemcacheError,)),
}


def is_read(parse: Callable[[Any], object], case: Any, allowed: Errors) -> bool:
    """Whether the case was read; an error that is not allowed passes through."""
    try:
        parse(case)
    except AssertionError:
        raise
    except allowed:
        return False
    return True


@pytest.mark.parametrize("name", PARSERS)
def test_a_tampered_input_is_read_or_refused_as_promised(name: str) -> None:
    cases, parse, allowed = PARSERS[name]

    @tampered
    @given(cases)
    def attempted(case: Any) -> None:
        is_read(parse, case, allowed)

    attempted()


@tampered
@given(text=changed_line(CALIBRATION))
def test_a_tampered_calibration_is_read_or_refused_as_promised(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "calibration.json").write_bytes(text)
    with suppress(ArtefactError):
        calibration = load_calibration(tmp_path)
        calibration.threshold(0.02)
        calibration.judged_by.log_odds(0.5, 0.1)


@pytest.mark.parametrize("name", PARSERS)
def test_some_tampered_inputs_are_read(name: str) -> None:
    """Else the strategy would test no more than the first check of the parser."""
    cases, parse, allowed = PARSERS[name]
    some = settings(max_examples=500, suppress_health_check=list(HealthCheck))
    find(cases, lambda case: is_read(parse, case, allowed), settings=some)


def test_an_error_that_was_not_promised_passes_through() -> None:
    def breaks(case: Any) -> None:
        raise KeyError("unthought of")

    with pytest.raises(KeyError):
        is_read(breaks, None, (ValueError,))
