"""Throws mutated inputs at everything that reads what somebody else may have written.

Each parser gets valid inputs with characters, or parts of their JSON, changed, and must give its
result or one of the errors that it promises. A seed gives the same cases again.

    python scripts/fuzz.py --cases 10000 --seed 0 --out benchmarks/results/fuzz.json
"""

import argparse
import json
import platform
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
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

Rng = random.Random
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1.5, -0.0, 1e308, -1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "a",
        "0",
        "\x00",
        "\ud800",
        "\u202e",
        "9" * 5000,
        "' OR 1 --",
    ),
    *([], {}, [[]], [None], {"": None}, {"lc": 1, "type": "secret", "id": ["HOME"]}),
    {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"command": "true"}},
    {"lc": 1, "type": "not_implemented", "id": ["x"], "repr": "<object at 0x7f>"},
]
KEYS = ["lc", "id", "type", "kwargs", "content", "path", "url", "question", "vector", "format", "a"]


def changed(value: Any, rng: Rng) -> Any:
    """`value` with one part of it replaced, dropped, doubled or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kept = dict(value)
        what = rng.random()
        if what < 0.15:
            del kept[key]
        elif what < 0.3:
            kept[rng.choice(KEYS)] = rng.choice(VALUES)
        else:
            kept[key] = changed(value[key], rng)
        return kept
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        what = rng.random()
        if what < 0.15:
            return value[:index] + value[index + 1 :]
        if what < 0.3:
            return value * 2
        return [*value[:index], changed(value[index], rng), *value[index + 1 :]]
    if isinstance(value, str) and value and rng.random() < 0.4:
        return text_changed(value, rng)
    deep = rng.choice(VALUES)
    return [[[deep]]] if rng.random() < 0.1 else deep


def text_changed(text: str, rng: Rng) -> str:
    """`text` with a few characters dropped, doubled, inserted or swapped for others."""
    for _ in range(rng.randint(1, 3)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.choice([0, 1, 1, 5, 50]))
        strange = rng.choice(["", "\x00", "\ud800", "\n", '"', "{", "]", "\\u", "0", "é", "\u202e"])
        text = text[:start] + strange + text[end:] + (text[start:end] if rng.random() < 0.1 else "")
    return text


def json_text(value: Any, rng: Rng) -> str:
    """JSON of `value` with a part changed, or the text itself; nested deeply now and then."""
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        value = changed(value, rng)
    text = json.dumps(value)
    what = rng.random()
    if what < 0.2:
        return text_changed(text, rng)
    return "[" * 20_000 if what < 0.2005 else text


@dataclass(frozen=True)
class Parser:
    """`run` makes a case from the randomness given and reads it; it may raise `allowed`. Of slow
    ones a `share` of the cases is run.
    """

    run: Callable[[Rng], object]
    allowed: tuple[type[Exception], ...] = ()
    share: float = 1.0


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
MESSAGES = [SystemMessage("be brief"), HumanMessage("where is Basel?"), AIMessage("there")]
CALL = {"name": "t", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
ANSWERS = [
    [ChatGeneration(message=AIMessage("on the Rhine", response_metadata={"model": "m"}))],
    [ChatGeneration(message=AIMessage("", tool_calls=[CALL]))],
    [Generation(text="on the Rhine")],
]
CHAT = ChatResponse(message=ChatMessage(role="assistant", content="on the Rhine"))
TEXT = "Where can I not pay 1,000.5 EUR with card A-17 in Zürich? Context: use `x != y`"
WORDS = TEXT.split()


def _import_line(rng: Rng) -> None:
    line = json_text(LINE, rng).encode("utf-8", "surrogatepass")
    header = rng.choice([None, Header(5.0, "model", 2), Header(5.0, "model", 3), Header(5.0)])
    portable_entry(parse_object(line, "line 1", "{}"), "line 1", header)


def _import_header(rng: Rng) -> None:
    _header("line 1", json_text(HEADER, rng).encode("utf-8", "surrogatepass"))


def _calibration() -> Parser:
    good = json.loads((DEFAULT_ARTEFACT / "calibration.json").read_text())
    directory = Path(tempfile.mkdtemp(prefix="semcache-fuzz-"))

    def run(rng: Rng) -> None:
        text = json_text(good, rng).encode("utf-8", "surrogatepass")
        (directory / "calibration.json").write_bytes(text)
        calibration = load_calibration(directory)
        calibration.threshold(0.02)
        calibration.judged_by.log_odds(0.5, 0.1)

    return Parser(run, (ArtefactError,), share=0.1)


def _generations() -> Parser:
    items = [json.loads(dump_generations(answer)) for answer in ANSWERS]

    def run(rng: Rng) -> None:
        stored = rng.choice(items)
        if rng.random() < 0.8:
            stored = [json.dumps(changed(json.loads(one), rng)) for one in stored]
            text = json.dumps(stored)
        else:
            text = json_text(stored, rng)
        for generation in load_generations(text):
            assert isinstance(generation, Generation)

    # all of them are Exceptions, which the adapter counts as a miss
    return Parser(run, (Exception,))


def _llamaindex(answers: Any, answer: Any) -> Parser:
    stored = json.loads(answers.dump(answer))

    def run(rng: Rng) -> None:
        loaded = answers.load(json_text(stored, rng), None)
        assert type(loaded) is type(answer)

    return Parser(run, (Exception,))


def _prompt() -> Parser:
    good = json.loads(dumps(MESSAGES))

    def run(rng: Rng) -> None:
        read_prompt(json_text(good, rng), split_question)

    return Parser(run, (SemcacheError,))


def _llm_string(rng: Rng) -> None:
    told = {"lc": 1, "type": "constructor", "id": ["a", "B"], "kwargs": {"model": "m", "n": 1}}
    text = f"{json_text(told, rng)}---{text_changed('[(chr(39), None)]', rng)}"
    read_llm_string(text)


def _settings(rng: Rng) -> None:
    good = {"path": "x", "max_error_rate": 0.02, "namespace": "n", "ttl": 5.0, "max_entries": 9}
    options: Any = changed(good, rng)
    settings_from(options if isinstance(options, dict) and all(options) else good)


def _ledger_url(rng: Rng) -> None:
    # the path is not looked at here
    parsed_url(text_changed("sqlite:////srv/cache/ledger.sqlite3?timeout=5", rng))


def _request(rng: Rng) -> None:
    fields: dict[str, Any] = {
        "question": "q",
        "scope": "s",
        "namespace": "n",
        "tags": ("a",),
        "writer": "w",
    }
    fields[rng.choice(list(fields))] = rng.choice([*VALUES, ("a", 1), ["a"], [None]])
    request = Request(**fields)
    assert len(key_of(request, "default").exact) == 32


def _texts(rng: Rng) -> None:
    one, other = (
        text_changed(" ".join(rng.choices(WORDS, k=rng.randint(1, 20))), rng) for _ in range(2)
    )
    differences(read(one), read(other))
    split_question(one)
    answer_digest(other)


UNIT = np.array([0.6, 0.8], np.float32).tobytes()


def _ledger_row(rng: Rng) -> None:
    odd: list[Any] = [None, 0, -1, 2**63 - 1, 1.5, "a", b"", b"\xff", UNIT, UNIT * 2, bytes(8)]
    row: list[Any] = [1, b"q", b"r", 5.0, None]
    stored: list[Any] = [1, UNIT, b"q", 1, None, 0.0, None, None, 0]
    row[rng.randrange(len(row))] = rng.choice(odd)
    stored[rng.randrange(len(stored))] = rng.choice(odd)
    vectors = vectors_from([rng.choice(odd), UNIT], 2)
    assert vectors.shape == (2, 2) and np.isfinite(vectors).all()
    with suppress(UNREADABLE):
        assert abs(float(np.linalg.norm(_stored(stored).vector)) - 1) < 0.01
    _entry(row)


class _Replying:
    id = "one"
    configuration_json = None

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    def get_collection(self, *args: Any, **kwargs: Any) -> Any:
        self.configuration_json = {"hnsw": {"space": "cosine"}}
        return self

    def query(self, **asked: Any) -> Any:
        return self.reply


def _chroma_reply(rng: Rng) -> None:
    good = {"ids": [["1", "2", "3"]], "distances": [[0.0, 0.1, 0.2]]}
    client: Any = _Replying(changed(good, rng))
    found = ChromaIndex(client, 1, "f" * 64).nearest(b"p" * 32, np.zeros(2, np.float32), 2)
    assert len(found) <= 2 and all(0 < entry_id < 2**63 for entry_id, _ in found)


def parsers() -> dict[str, Parser]:
    ours = (SemcacheError,)
    return {
        "import line": Parser(_import_line, ours),
        "import header": Parser(_import_header, ours),
        "calibration.json": _calibration(),
        "generations of LangChain": _generations(),
        "chats of LlamaIndex": _llamaindex(ChatAnswers(), CHAT),
        "completions of LlamaIndex": _llamaindex(CompletionAnswers(), CompletionResponse(text="a")),
        "messages of LangChain": _prompt(),
        "model as LangChain tells it": Parser(_llm_string),
        "settings": Parser(_settings, (SettingsError,), share=0.1),
        "ledger_url": Parser(_ledger_url, (LedgerError,)),
        "request, namespace, tags": Parser(_request, (RequestError,)),
        "questions and answers": Parser(_texts),
        "rows of the ledger": Parser(_ledger_row, (LedgerError,)),
        "replies of Chroma": Parser(_chroma_reply, ours),
    }


def attempt(parser: Parser, rng: Rng) -> bool:
    """Whether the case was read; an error that is not allowed passes through."""
    try:
        parser.run(rng)
    except AssertionError:
        raise
    except parser.allowed:
        return False
    return True


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=10_000, help="for each parser")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    warnings.simplefilter("ignore")
    told: dict[str, dict[str, Any]] = {}
    for name, parser in parsers().items():
        started, accepted = time.perf_counter(), 0
        cases = round(given.cases * parser.share)
        for case in range(cases):
            rng = random.Random(f"{given.seed} {name} {case}")
            try:
                accepted += attempt(parser, rng)
            except BaseException:
                print(f"{name}: seed {given.seed}, case {case}")
                raise
        seconds = round(time.perf_counter() - started, 1)
        told[name] = {"cases": cases, "read": accepted, "seconds": seconds}
        print(name, told[name], flush=True)
    result = {
        "what": "mutated inputs, by parser; none raised another error than the ones promised",
        "seed": given.seed,
        "cases": sum(one["cases"] for one in told.values()),
        "parsers": told,
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("numpy", "pydantic", "langchain-core", "llama-index-core", "sqlalchemy")
        },
    }
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
