"""The examples do what they say, with a scripted model and the shipped embedding model."""

import os
import re
import subprocess
import sys
from typing import Any

import pytest
from examples_run import EXAMPLES, example
from langchain_core.messages import AIMessage
from scripted_models import Chat, Streaming


def run(name: str, model: Chat, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that an example prints."""
    example(name).main(model)
    return capsys.readouterr().out.splitlines()


def calling(name: str, **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "call_1"}])


def test_every_example_is_tested_and_starts_with_what_it_shows() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    here = {"chat_app", "rag_chain", "tool_agent", "multi_tenant"}
    of_llamaindex = {
        *("query_engine", "chat_engine", "function_agent"),
        *("ingestion_pipeline", "changed_document"),
    }
    # redact_pii beside the hooks that it shows
    assert names == here | of_llamaindex | {"redact_pii"}
    for name in names:
        text = (EXAMPLES / f"{name}.py").read_text()
        assert text.startswith('"""A') and f"python examples/{name}.py" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_example_runs_as_a_script_without_a_key(name: str) -> None:
    no_keys = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY")}
    command = [sys.executable, str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, env=no_keys, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    from_cache = r"hit\]|the cache\]|[1-9] of 2 steps|[1-9] by meaning|[1-9] exact"
    assert re.search(from_cache, done.stdout), done.stdout


def test_a_chat_app_streams_a_common_question_from_the_cache(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Streaming().answering(
        "By mail.", "In your inbox.", "In the menu.", "Top right.", "Click it"
    )
    assert run("chat_app", model, capsys) == [
        "Ada: How do I reset my password?",
        "By mail.   [the model]",
        "Ada: And where do I find that link?",
        "In your inbox.   [the model]",
        "Bob: How can I reset my password?",
        "By mail.   [semantic hit]",
        "Bob: And where do I find that link?",
        "In the menu.   [the model]",
        "Cyd: How do I cancel my order?",
        "Top right.   [the model]",
        "Cyd: And where do I find that link?",
        "Click it   [the model]",
    ]
    assert model.asked == 5


def test_a_rag_chain_reuses_an_answer_for_the_same_documents_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Chat().answering("2 days.", "14 days.")
    assert run("rag_chain", model, capsys) == [
        "How do I cancel my order?",
        "   2 days.   [the model]",
        "How can I cancel an order?",
        "   2 days.   [semantic hit]",
        "How do I cancel my order?",
        "   14 days.   [the model]",
        "How can I cancel an order?",
        "   14 days.   [semantic hit]",
    ]
    assert model.asked == 2


def test_an_agent_with_tools_replays_its_steps_and_runs_its_tools(
    capsys: pytest.CaptureFixture[str],
) -> None:
    order = calling("order_status", number="1234")
    script = ["Press cancel.", order, "It is packed.", "It is sent.", calling("clock"), "Late", "!"]
    model = Chat().answering(*script)
    lines = [re.sub(r"\d\d:\d\d", "14:03", line) for line in run("tool_agent", model, capsys)]
    assert lines == [
        "How do I cancel my order?",
        "   ai: Press cancel.",
        "How can I cancel an order?",
        "   ai: Press cancel.   [semantic hit]",
        "Where is order 1234?",
        "   ai: ['order_status']",
        "   tool: packed",
        "   ai: It is packed.",
        "Where is order 1234?",
        "   ai: ['order_status']   [exact hit]",
        "   tool: packed",
        "   ai: It is packed.   [exact hit]",
        "Where is order 1234?",
        "   ai: ['order_status']   [exact hit]",
        "   tool: sent",
        "   ai: It is sent.",
        "What time is it?",
        "   ai: ['clock']",
        "   tool: 14:03",
        "   ai: Late",
        "What time is it?",
        "   ai: ['clock']   [exact hit]",
        "   tool: 14:03",
        "   ai: !",
        "4 exact and 1 semantic hits",
    ]
    assert model.asked == 7


def test_tenants_of_a_service_never_share(capsys: pytest.CaptureFixture[str]) -> None:
    model = Chat().answering("acme's", "globex's", "nobody's", "acme's new")
    assert run("multi_tenant", model, capsys) == [
        "acme: How do I reset my password?",
        "   acme's   [the model]",
        "globex: How do I reset my password?",
        "   globex's   [the model]",
        "acme: How can I reset my password?",
        "   acme's   [semantic hit]",
        "globex: How can I reset my password?",
        "   globex's   [semantic hit]",
        "None: How do I reset my password?",
        "   nobody's   [the model]",
        "acme is gone, and with it 1 answer",
        "acme: How do I reset my password?",
        "   acme's new   [the model]",
        "globex: How do I reset my password?",
        "   globex's   [exact hit]",
    ]
    assert model.asked == 4
