"""Files and functions that a call passes through.

Each call runs once, in one thread, after calls of the same kind. Only functions of the three
packages count. A move is a call into another file, or the return from it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import semcache_core
from harness.results import Results, columns
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


def traced(call: Callable[[], Any]) -> dict[str, int]:
    path = CallPath()
    sys.setprofile(path)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {
        "files": len({code.co_filename for code in path.entered}),
        "moves": len(path.files) - 1,
        "calls": len(path.entered),
        "functions": len(set(path.entered)),
    }


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

    def asked(ask: Callable[[str], Any], *questions: str) -> Callable[[str], Any]:
        for question in ("warm up one?", *questions):
            ask(question)
        return ask

    answer = ["Open Settings and choose Reset."]
    cache = langchain_semcache.SemanticLLMCache(**options("exact"))
    model = FakeListChatModel(responses=answer, cache=cache)
    exact = asked(model.invoke, QUESTION, REWORDED, QUESTION)
    yield "LangChain, exact hit", lambda: exact(QUESTION)

    cache = langchain_semcache.SemanticLLMCache(**options("meaning"))
    model = FakeListChatModel(responses=answer, cache=cache)
    invoke = asked(model.invoke, QUESTION, WARM)
    yield "LangChain, hit by meaning", lambda: invoke(REWORDED)
    yield "LangChain, miss and update", lambda: invoke(OTHER)

    inner = FakeListChatModel(responses=answer)
    chat = langchain_semcache.CachedChatModel(model=inner, **options("chat"))
    asked(chat.invoke, QUESTION)
    list(chat.stream(WARM))
    yield "CachedChatModel.invoke, hit", lambda: chat.invoke(REWORDED)
    yield "CachedChatModel.invoke, miss", lambda: chat.invoke(OTHER)
    yield "CachedChatModel.stream, hit", lambda: list(chat.stream(REWORDED))
    yield "CachedChatModel.stream, miss", lambda: list(chat.stream("Where is the big office?"))

    llm = llamaindex_semcache.CachedLLM(llm=MockLLM(max_tokens=5), **options("llm"))
    say = asked(lambda text: llm.chat([ChatMessage(role="user", content=text)]), QUESTION)
    yield "CachedLLM.chat, hit", lambda: say(REWORDED)
    yield "CachedLLM.chat, miss", lambda: say(OTHER)


def table(results: Results) -> str:
    counts = ("files", "moves", "calls", "functions")
    return columns({"call": "{call}"} | {name: f"{{{name}}}" for name in counts}, results["rows"])
