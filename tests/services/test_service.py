"""The example service on real servers of several processes, over one path.

What is asked are real questions to the shipped model; the answers of the fake one tell which call
of which process made them, so that a hit is known by its text.
"""

import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from semcache_core import SemanticCache

pytest.importorskip("fastapi")
if sys.platform == "win32":
    pytest.skip("these supervisors fork or send signals", allow_module_level=True)
sys.path.append(str(Path(__file__).parent))

from servers import SERVICE, Server, by_deadline

if not SERVICE.is_dir():
    pytest.skip("the examples are not part of this package", allow_module_level=True)

TASKS = (
    *("reset my password", "cancel my order", "change my delivery address", "return a gift"),
    *("track a parcel", "delete my account", "redeem a voucher", "download an invoice"),
    *("contact the support team", "update my credit card"),
)
ASKED = [f"How do I {task}?" for task in TASKS]
PARAPHRASED = [f"How can I {task}?" for task in TASKS]

UVICORN = ("uvicorn", "service:app", "--port", "PORT")
GUNICORN = (
    *("gunicorn", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:PORT"),
    *("--preload", "--graceful-timeout", "20"),
)
OPENED_BEFORE = """
import os
from semcache_core import Request, SemanticCache
from service import service

cache = SemanticCache(path=os.environ["SERVICE_CACHE"])
cache.update(Request("Is it open before the fork?"), "Yes.")
assert cache.lookup(Request("Is it open before a fork?")) is not None
app = service(lambda: cache)
"""


@pytest.fixture(params=["uvicorn", "gunicorn", "opened before the fork"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    if request.param == "uvicorn":
        server = Server((*UVICORN, "--workers", "4"), tmp_path / "cache", 4)
    elif request.param == "gunicorn":
        server = Server((*GUNICORN, "-w", "4", "service:app"), tmp_path / "cache", 4)
    else:
        (tmp_path / "preloaded.py").write_text(OPENED_BEFORE)
        command = (*GUNICORN, "-w", "2", "preloaded:app")
        server = Server(command, tmp_path / "cache", 2, folder=tmp_path)
    yield from running(server)


def running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.kill()


def stored(path: Path) -> list[str]:
    """The responses that a process which opens the path now finds there."""
    with SemanticCache(path=path) as cache:
        cache.export_entries(path.parent / "out.jsonl", all_namespaces=True)
    lines = (path.parent / "out.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return [json.loads(line)["response"] for line in lines]


def assert_ended_in_order(server: Server) -> None:
    said = server.end()
    assert "Traceback" not in said and "Exception" not in said, said
    assert not (server.path / "index.open").exists()
    with FileLock(server.path / "index.lock", timeout=0):
        pass


def by_worker(server: Server, question: str) -> dict[int, dict[str, Any]]:
    """What each worker answers to a question."""
    answers: dict[int, dict[str, Any]] = {}

    def all_asked() -> bool:
        answer = server.ask(question)
        answers.setdefault(answer["worker"], answer)
        return len(answers) >= server.workers

    by_deadline(all_asked, "an answer of every worker")
    return answers


def test_workers_share_what_each_of_them_stored_and_end_in_order(server: Server) -> None:
    # 1. each question from four clients at once: the model is asked once a worker, at most
    first = server.ask_at_once([question for question in ASKED for _ in range(4)])
    made: dict[tuple[str, int], set[str]] = defaultdict(set)
    for n, answer in enumerate(first):
        assert ASKED[n // 4] in answer["answer"]
        # a hit by meaning is one that another worker stored since we looked for its very words
        if answer["served"] in ("miss", "shared"):
            made[ASKED[n // 4], answer["worker"]].add(answer["answer"])
    assert {question for question, _ in made} == set(ASKED)
    assert all(len(answers) == 1 for answers in made.values()), made

    # 2. what one worker stored is a hit of every worker, by its words and by its meaning
    for question, served in ((ASKED[0], "exact"), (PARAPHRASED[0], "semantic")):
        answers = by_worker(server, question)
        assert {answer["served"] for answer in answers.values()} == {served}
        assert len({answer["answer"] for answer in answers.values()}) == 1
    again = server.ask_at_once([*ASKED, *PARAPHRASED])
    kept = [answer["answer"] for answer in again[: len(ASKED)]]
    assert [answer["served"] for answer in again] == ["exact"] * 10 + ["semantic"] * 10
    assert [answer["answer"] for answer in again[len(ASKED) :]] == kept

    # 3. another tenant gets an answer of its own
    assert server.ask(ASKED[0], tenant="globex")["served"] == "miss"

    # 4. no error was swallowed, and all that was answered is there when they have ended
    assert all(counts["failures"] == {} for counts in server.stats().values())
    assert_ended_in_order(server)
    responses = "\n".join(stored(server.path))
    assert all(answer in responses for answer in kept)


@pytest.fixture
def indexing_server(tmp_path: Path) -> Iterator[Server]:
    """One that indexes a scope of six entries."""
    command = (*GUNICORN, "-w", "3", "service:app")
    yield from running(
        Server(command, tmp_path / "cache", 3, environment={"SEMCACHE_SCAN_LIMIT": "5"})
    )


def test_a_killed_worker_is_replaced_and_another_one_takes_over_its_index(
    indexing_server: Server,
) -> None:
    server = indexing_server
    answers = server.ask_at_once(ASKED)
    kept = {question: answer["answer"] for question, answer in zip(ASKED, answers, strict=True)}
    server.ask_at_once(PARAPHRASED)  # a lookup that scans so many tells the indexer
    owner = by_deadline(server.owner, "an index for ten entries")
    before = server.worker_ids()
    os.kill(owner, signal.SIGKILL)

    def taken_over() -> bool:
        for question in (ASKED[0], PARAPHRASED[0]):  # found by scanning, until then
            with suppress(OSError, HTTPException):  # the killed one may have accepted it
                answer = server.ask(question)
                assert answer["answer"] == kept[ASKED[0]], answer
        return server.owner() not in (None, owner)

    by_deadline(taken_over, "another owner of the index")
    new = by_deadline(lambda: server.worker_ids() - before, "a worker in its place")
    said = by_worker(server, PARAPHRASED[1])
    assert new <= set(said)
    assert {answer["answer"] for answer in said.values()} == {kept[ASKED[1]]}
    assert_ended_in_order(server)
    responses = "\n".join(stored(server.path))
    assert all(answer in responses for answer in kept.values())
