"""The examples do what they say, with their own stand-ins and the shipped embedding model."""

import asyncio
import inspect
import re

import pytest
from examples_run import example

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def run(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that an example prints."""
    done = example(name).main()
    if inspect.iscoroutine(done):
        asyncio.run(done)
    return capsys.readouterr().out.splitlines()


def test_a_query_engine_reuses_an_answer_for_the_same_documents(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("query_engine", capsys) == [
        "How do I cancel my order?",
        "   You may cancel an order within 2 days.   [the model]",
        "How can I cancel an order?",
        "   You may cancel an order within 2 days.   [semantic hit]",
        "When do parcels leave your store?",
        "   Parcels leave our store on Mondays.   [the model]",
        "How do I cancel my order?",
        "   You may cancel an order within 14 days.   [the model]",
        "When do parcels leave your store?",
        "   Parcels leave our store on Mondays.   [exact hit]",
    ]


def test_a_chat_engine_compares_all_that_was_said_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("chat_engine", capsys) == [
        "Ada: How do I reset my password?",
        "   By mail.   [0 exact, 0 by meaning, 1 by the model]",
        "Ada: Where do I find that link?",
        "   In your mail.   [0 exact, 0 by meaning, 2 by the model]",
        "Bob: How do I reset my password?",
        "   By mail.   [1 exact, 0 by meaning, 0 by the model]",
        "Bob: Where can I find that link?",
        "   In your mail.   [0 exact, 2 by meaning, 0 by the model]",
        "Cyd: How can I reset my password?",
        "   By mail.   [0 exact, 1 by meaning, 0 by the model]",
        "Cyd: Where do I find that link?",
        "   In your mail.   [0 exact, 0 by meaning, 2 by the model]",
    ]


def test_an_agent_replays_its_steps_and_runs_its_tools(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [re.sub(r"\d\d:\d\d", "14:03", line) for line in run("function_agent", capsys)]
    assert lines == [
        "How do I cancel my order?",
        "   Press cancel.   [the model]",
        "How can I cancel an order?",
        "   Press cancel.   [semantic hit]",
        "Where is order 1234?",
        "   ['order_status']   [the model]",
        "   order_status: packed",
        "   It is packed.   [the model]",
        "Where is order 1234?",
        "   ['order_status']   [exact hit]",
        "   order_status: packed",
        "   It is packed.   [exact hit]",
        "Where is order 1234?",
        "   ['order_status']   [exact hit]",
        "   order_status: sent",
        "   It is sent.   [the model]",
        "What time is it?",
        "   ['clock']   [the model]",
        "   clock: 14:03",
        "   It is 14:03.   [the model]",
        "What time is it?",
        "   ['clock']   [exact hit]",
        "   clock: 14:03",
        "   It is 14:03.   [the model]",
        "4 exact and 1 semantic hits",
    ]


def test_a_pipeline_does_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("ingestion_pipeline", capsys) == [
        "5 nodes: 0 of 2 steps from the cache, 5 texts embedded",
        "5 nodes: 2 of 2 steps from the cache, 0 texts embedded",
        "5 nodes: 0 of 2 steps from the cache, 1 texts embedded",
    ]


def test_a_changed_document_takes_its_answers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("changed_document", capsys) == [
        "How do I cancel my order?",
        "   You may cancel an order within 2 days.   [the model]",
        "How can I cancel an order?",
        "   You may cancel an order within 2 days.   [semantic hit]",
        "When is my parcel sent?",
        "   Parcels leave our store on Mondays.   [the model]",
        "cancelling has changed",
        "How can I cancel an order?",
        "   You may cancel an order within 14 days.   [the model]",
        "When is my parcel sent?",
        "   Parcels leave our store on Mondays.   [exact hit]",
    ]
