"""Files and functions that a call passes through.

Each call runs once, in one thread, after calls of the same kind. Only functions of the three
packages count. A move is a call into another file, or the return from it. `ways in` counts
consecutive entered functions that lie in different files.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import semcache_core
from harness.results import Results, markdown
from langchain_core.language_models import FakeListChatModel
from llama_index.core.llms import ChatMessage, MockLLM

import langchain_semcache
import llamaindex_semcache

PACKAGES = tuple(
    f"{Path(str(package.__file__)).parent}/"
    for package in (semcache_core, langchain_semcache, llamaindex_semcache)
)
QUESTION = "How do I reset my password?"
WARM, REWORDED = "How do I get my password reset?", "How can I reset my password?"
OTHER = "Where is the office?"
ANSWER = "Open Settings and choose Reset."


class CallPath:
    """Records functions and files in the order in which the calling thread enters them."""

    def __init__(self) -> None:
        self.entered: list[CodeType] = []
        self.files: list[str] = []

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """The callback of `sys.setprofile`."""
        current: FrameType | None = frame
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGES):
            self.entered.append(frame.f_code)
        elif event == "return":
            current = frame.f_back
        else:
            return
        while current is not None and not current.f_code.co_filename.startswith(PACKAGES):
            current = current.f_back
        if current is not None and current.f_code.co_filename not in self.files[-1:]:
            self.files.append(current.f_code.co_filename)

    def counts(self) -> dict[str, int]:
        names = [code.co_filename for code in self.entered]
        return {
            "files": len(set(names)),
            "moves": len(self.files) - 1,
            "ways in": sum(a != b for a, b in pairwise(names)),
            "calls": len(names),
            "functions": len(set(self.entered)),
        }


def traced(call: Callable[[], Any]) -> dict[str, int]:
    path = CallPath()
    sys.setprofile(path)
    try:
        call()
    finally:
        sys.setprofile(None)
    return path.counts()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max-error-rate", type=float, default=0.1)


def measure(options: argparse.Namespace) -> Results:
    with tempfile.TemporaryDirectory(prefix="semcache-bench-") as directory:
        found = calls(Path(directory), options.max_error_rate)
        return {"rows": [{"call": name, **traced(call)} for name, call in found]}


def calls(directory: Path, max_error_rate: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(name, call), each ready to be traced when it is yielded."""

    def options(name: str) -> dict[str, Any]:
        return {"path": directory / name, "max_error_rate": max_error_rate}

    def asked(ask: Callable[[str], Any], *questions: str) -> None:
        for question in ("warm up one?", *questions):
            ask(question)

    cache = langchain_semcache.SemanticLLMCache(**options("exact"))
    model = FakeListChatModel(responses=[ANSWER], cache=cache)
    asked(model.invoke, QUESTION, REWORDED, QUESTION)
    yield "LangChain, exact hit", lambda: model.invoke(QUESTION)

    cache = langchain_semcache.SemanticLLMCache(**options("meaning"))
    model = FakeListChatModel(responses=[ANSWER], cache=cache)
    asked(model.invoke, QUESTION, WARM)
    yield "LangChain, hit by meaning", lambda: model.invoke(REWORDED)
    yield "LangChain, miss and update", lambda: model.invoke(OTHER)

    inner = FakeListChatModel(responses=[ANSWER])
    chat = langchain_semcache.CachedChatModel(model=inner, **options("chat"))
    asked(chat.invoke, QUESTION)
    list(chat.stream(WARM))
    yield "CachedChatModel.invoke, hit", lambda: chat.invoke(REWORDED)
    yield "CachedChatModel.invoke, miss", lambda: chat.invoke(OTHER)
    yield "CachedChatModel.stream, hit", lambda: list(chat.stream(REWORDED))
    yield "CachedChatModel.stream, miss", lambda: list(chat.stream("Where is the big office?"))

    llm = llamaindex_semcache.CachedLLM(llm=MockLLM(max_tokens=5), **options("llm"))

    def say(text: str) -> Any:
        return llm.chat([ChatMessage(role="user", content=text)])

    asked(say, QUESTION)
    yield "CachedLLM.chat, hit", lambda: say(REWORDED)
    yield "CachedLLM.chat, miss", lambda: say(OTHER)


def table(results: Results) -> str:
    columns = ("files", "moves", "calls", "functions")
    rows = [(row["call"], *(str(row[column]) for column in columns)) for row in results["rows"]]
    return markdown(("call", *columns), rows)
