"""The audits that run behind the back of a test: waiting for them, and what they judged."""

import asyncio
import threading

from semcache_core import SemanticCache


class Held:
    """An audit that goes on when the test says so."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self) -> None:
        self.begun.release()
        assert self.go.wait(30)


def auditing() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "semcache audit"]


def finish() -> None:
    """Until all audits in threads have ended."""
    for thread in auditing():
        thread.join(30)
        assert not thread.is_alive()


async def afinish() -> None:
    """Until all audits of this event loop have ended."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == "semcache audit"]
    if tasks:
        await asyncio.wait(tasks, timeout=30)
    assert all(task.done() for task in tasks)


def judged(cache: SemanticCache) -> tuple[int, int]:
    """How many hits were judged, and how many of them were wrong."""
    measured = cache.stats().measured
    return measured.n, measured.wrong
