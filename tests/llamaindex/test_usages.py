"""What an answer took: as its integration tells, and as it is counted of its hits."""

from typing import Any

import pytest
from conftest import Bench
from llama_index.core.base.llms.types import CompletionResponse
from pydantic import BaseModel
from scripted_llms import CHATS, ScriptedLLM, said
from semcache_core import Prices, Usage

from llamaindex_semcache import CachedLLM
from llamaindex_semcache.request import Question
from llamaindex_semcache.serialization import usage_of

PAID = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
CALL = Question(ScriptedLLM())


@pytest.mark.parametrize(
    "told",
    [
        PAID,
        {"input_tokens": 30, "output_tokens": 4},
        {"prompt_token_count": 30, "candidates_token_count": 4},
    ],
)
def test_tokens_are_read_by_the_names_that_integrations_give_them(told: dict[str, Any]) -> None:
    name = CALL.llm.metadata.model_name
    assert usage_of(CALL, said("warm", additional_kwargs=told)) == Usage(name, 30, 4)
    completion = CompletionResponse(text="warm", additional_kwargs=told)
    assert usage_of(CALL, completion) == Usage(name, 30, 4)


@pytest.mark.parametrize("told", [{}, {"prompt_tokens": "30"}, {"prompt_tokens": -1}])
def test_what_is_not_told_or_no_count_is_not_known(told: dict[str, Any]) -> None:
    usage = usage_of(CALL, said("warm", additional_kwargs=told))
    assert (usage.tokens_in, usage.tokens_out) == (None, None)


def test_of_an_object_of_the_apps_own_nothing_is_known() -> None:
    class Warmth(BaseModel):
        additional_kwargs: dict[str, int]

    assert usage_of(CALL, Warmth(additional_kwargs=PAID)) == Usage()


@pytest.mark.parametrize("way", CHATS)
async def test_a_hit_saves_tokens_money_and_time(bench: Bench, way: str) -> None:
    cache = bench.open(path=None, prices=Prices({"*": (1_000_000, 10_000_000)}))
    llm = CachedLLM(llm=ScriptedLLM(said("quite warm", additional_kwargs=PAID)), cache=cache)
    for _ in range(3):
        await CHATS[way](llm, "how warm is it")
    saved = cache.stats().saved
    assert (saved.tokens_in, saved.tokens_out, saved.cost) == (60, 8, 140.0)
    assert (saved.seconds or 0) > 0
    assert cache.stats().failures == {}
