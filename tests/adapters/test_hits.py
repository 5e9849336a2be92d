"""What an app learns of a hit: which it was, and nothing of another caller."""

import asyncio
import contextvars
import json
from dataclasses import replace

from semcache_core import Hit
from semcache_core.adapters import described, last_hit, set_last_hit

HIT = Hit("hello, Bob", "semantic", 0.97, 0.95, "I am Bob, hi there", 7, 3.5)


def test_a_hit_shows_neither_question_nor_answer() -> None:
    told = described(HIT)
    assert told == {"kind": "semantic", "probability": 0.97, "age_s": 3.5, "entry_id": 7}
    assert "Bob" not in json.dumps(told)


def test_without_a_hit_the_answer_was_shared() -> None:
    assert described(None) | {"kind": ""} == {
        **{"kind": "", "probability": 1.0, "age_s": 0.0},
        "entry_id": None,
    }
    assert described(None)["kind"] == "shared"


def test_the_last_hit_is_of_the_own_context() -> None:
    def own() -> None:
        assert last_hit() is None
        for hit in (HIT, replace(HIT, kind="exact"), None):
            set_last_hit(hit)
            assert last_hit() is hit
        set_last_hit(HIT)
        contextvars.Context().run(lambda: set_last_hit(None))
        assert last_hit() is HIT

    contextvars.Context().run(own)


async def test_a_task_that_asks_in_tasks_of_its_own_has_no_older_hit() -> None:
    async def ask(hit: Hit | None) -> Hit | None:
        assert last_hit() is None  # not the one of the task that started this one
        set_last_hit(hit)
        await asyncio.sleep(0)
        return last_hit()

    set_last_hit(HIT)
    assert last_hit() is HIT
    assert await asyncio.gather(ask(HIT), ask(None)) == [HIT, None]
    assert last_hit() is None


async def test_tasks_within_tasks_clear_the_hits_of_all_above() -> None:
    async def deep(levels: int) -> None:
        if levels:
            await asyncio.create_task(deep(levels - 1))
        else:
            set_last_hit(HIT)

    set_last_hit(HIT)
    await asyncio.create_task(deep(3))
    assert last_hit() is None


def test_a_step_in_a_copy_of_the_context_sets_the_hit_of_the_thread() -> None:
    set_last_hit(HIT)
    contextvars.copy_context().run(set_last_hit, None)
    assert last_hit() is None
    contextvars.copy_context().run(set_last_hit, HIT)
    assert last_hit() is HIT
