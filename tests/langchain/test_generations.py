"""What is stored, and what is new in each hit."""

import pytest
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    ToolCall,
    messages_from_dict,
    messages_to_dict,
)
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import BaseModel
from scripted_models import Chat

from langchain_semcache import SemanticLLMCache
from langchain_semcache.serialization import is_storable, load_generations, plain_text


def weather(call_id: str = "toolu_1") -> ToolCall:
    return ToolCall(name="weather", args={"place": "Basel"}, id=call_id, type="tool_call")


def calling(call_id: str = "toolu_1") -> AIMessage:
    """A call as OpenAI and Anthropic tell it, in three places."""
    return AIMessage(
        [
            {"type": "text", "text": "Let me see."},
            {"type": "tool_use", "id": call_id, "name": "weather", "input": {"place": "Basel"}},
            {"type": "function_call", "id": "fc_1", "call_id": call_id, "arguments": "{}"},
        ],
        tool_calls=[weather(call_id)],
        additional_kwargs={
            "tool_calls": [{"id": call_id, "type": "function", "function": {"name": "weather"}}],
            "__gemini_function_call_thought_signatures__": {call_id: "c2lnbmVk"},
        },
    )


# -- calls -----------------------------------------------------------------------------------------


def test_a_call_of_a_tool_is_never_served_by_meaning(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(calling())
    model.invoke("how warm is it")
    assert model.invoke("it is how warm").content == "answer 2"
    cache.cache.rebuild()
    assert model.invoke("is it how warm").content == "answer 2"  # that one is text
    assert cache.stats().semantic_hits == 1


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", additional_kwargs={"function_call": {"name": "weather", "arguments": "{}"}}),
        AIMessage([{"type": "tool_use", "id": "a", "name": "weather", "input": {}}]),
        AIMessage([{"type": "non_standard", "value": {"type": "computer_call", "call_id": "a"}}]),
        AIMessage([{"type": "mcp_approval_request", "id": "a"}]),
    ],
    ids=["function_call", "tool_use", "computer_call", "approval"],
)
def test_a_call_told_in_any_other_way_is_never_served_by_meaning(
    cache: SemanticLLMCache, message: AIMessage
) -> None:
    model = Chat(cache=cache).answering(message)
    model.invoke("how warm is it")
    model.invoke("it is how warm")
    model.invoke("how warm is it")
    assert model.asked == 2


def test_a_repeated_call_has_one_fresh_id_in_every_place(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(calling())
    hits = [model.invoke("how warm is it") for _ in range(3)]
    assert model.asked == 1
    assert len({hit.tool_calls[0]["id"] for hit in hits}) == 3
    for hit in hits[1:]:
        new = hit.tool_calls[0]["id"]
        assert new and new != "toolu_1"
        assert hit.content[1]["id"] == hit.content[2]["call_id"] == new
        assert hit.additional_kwargs["tool_calls"][0]["id"] == new
        assert hit.additional_kwargs["__gemini_function_call_thought_signatures__"].keys() == {new}
        assert "toolu_1" not in str(hit)


def test_arguments_that_look_like_a_call_id_are_left_alone(cache: SemanticLLMCache) -> None:
    message = calling("1")
    arguments = {"id": "1", "call_id": "1", "of": {"id": "1"}}
    message.tool_calls = [ToolCall(name="delete", args=arguments, id="1", type="tool_call")]
    message.content[1]["input"] = {"id": "1"}
    model = Chat(cache=cache).answering(message)
    model.invoke("delete it please")
    hit = model.invoke("delete it please")
    assert hit.tool_calls[0]["args"] == arguments
    assert hit.content[1]["input"] == {"id": "1"}
    assert hit.tool_calls[0]["id"] != "1"


def test_two_calls_keep_different_ids(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(AIMessage("", tool_calls=[weather("a"), weather("b")]))
    model.invoke("how warm is it")
    one, two = model.invoke("how warm is it").tool_calls
    assert one["id"] != two["id"]


# -- ids and usage ---------------------------------------------------------------------------------


def test_every_hit_has_an_id_of_its_own(cache: SemanticLLMCache) -> None:
    model = Chat(cache=cache).answering(AIMessage("hello", id="msg-1"))
    ids = [model.invoke("hi there").id for _ in range(3)]
    assert model.asked == 1
    assert len(set(ids)) == 3 and all(ids)


def test_a_hit_counts_no_tokens_and_survives_a_round_trip(cache: SemanticLLMCache) -> None:
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    model = Chat(cache=cache).answering(AIMessage("hello", usage_metadata=usage), "bye")
    for question in ("hi there", "so long"):  # with usage, and without
        model.invoke(question)
        hit = model.invoke(question)
        assert hit.usage_metadata is not None
        assert [hit.usage_metadata[name] for name in usage] == [0, 0, 0]
        assert messages_from_dict(messages_to_dict([hit])) == [hit]
    assert model.asked == 2


class Answer(BaseModel):
    text: str


def test_a_parsed_answer_can_be_stored(cache: SemanticLLMCache) -> None:
    message = AIMessage("{}", additional_kwargs={"parsed": Answer(text="a")})
    model = Chat(cache=cache).answering(message)
    model.invoke("hi there")
    assert model.invoke("hi there").additional_kwargs == {"parsed": {"text": "a"}}


def test_several_generations_are_kept_in_order(cache: SemanticLLMCache) -> None:
    texts = [Generation(text=text, generation_info={"n": n}) for n, text in enumerate("abc")]
    cache.update("hi", "model", texts)
    assert cache.lookup("hi", "model") == texts


def test_what_could_not_be_read_back_is_not_stored(cache: SemanticLLMCache) -> None:
    class Subclass(AIMessage):
        pass

    for message in (AIMessage([{"type": "text", "text": "a", "of": object()}]), Subclass("b")):
        cache.update("hi", "model", [ChatGeneration(message=message)])
    cache.update("hi", "model", [ChatGeneration(message=HumanMessage("c"))])
    assert cache.stats().entries == 0
    assert cache.stats().failures == {"update": 2}


def test_nothing_but_generations_is_read() -> None:
    with pytest.raises(ValueError):
        load_generations("[]")


# -- what is not stored ----------------------------------------------------------------------------

CUT_SHORT = [
    *("length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "content_filter", "SAFETY"),
    *("refusal", "RECITATION", "error", "lengthlength", "pause_turn", "MALFORMED_FUNCTION_CALL"),
    *("model_context_window_exceeded", "guardrail_intervened", "ERROR_TOXIC", "incomplete"),
    *("insufficient_system_resource", "PROHIBITED_CONTENT", "cancelled", "abort"),
]
WHOLE = ["stop", "STOP", "end_turn", "stop_sequence", "COMPLETE", "tool_calls", "eos_token"]
PLACES = ["finish_reason", "stop_reason", "done_reason", "stopReason"]


@pytest.mark.parametrize("reason", CUT_SHORT)
def test_an_answer_that_was_cut_short_is_not_stored(cache: SemanticLLMCache, reason: str) -> None:
    generation = ChatGeneration(
        message=AIMessage("Once upon a"), generation_info={"finish_reason": reason}
    )
    model = Chat(cache=cache).answering(generation)
    model.invoke("tell me a story")
    assert model.invoke("tell me a story").content == "answer 2"


@pytest.mark.parametrize("reason", WHOLE)
def test_an_answer_that_ended_by_itself_is_stored(reason: str) -> None:
    message = AIMessage("The end.", response_metadata={"finish_reason": reason})
    assert is_storable([ChatGeneration(message=message)])


@pytest.mark.parametrize("place", PLACES)
def test_a_reason_is_found_wherever_a_provider_puts_it(place: str) -> None:
    message = AIMessage("Once upon a", response_metadata={place: "length"})
    assert not is_storable([ChatGeneration(message=message)])
    assert not is_storable([Generation(text="Once", generation_info={place: "length"})])


def test_an_incomplete_response_of_openai_is_not_stored() -> None:
    said = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    assert not is_storable([ChatGeneration(message=AIMessage("Once", response_metadata=said))])


BROKEN = {
    "name": "weather",
    "args": "{",
    "id": "a",
    "error": "not JSON",
    "type": "invalid_tool_call",
}
NOT_STORED = {
    "empty": AIMessage(""),
    "blank": AIMessage(" \n"),
    "no block": AIMessage([]),
    "thoughts only": AIMessage([{"type": "thinking", "thinking": "hm", "signature": "s"}]),
    "refusal": AIMessage("", additional_kwargs={"refusal": "I cannot help with that."}),
    "refusal with text": AIMessage("No.", additional_kwargs={"refusal": "No."}),
    "refusal block": AIMessage([{"type": "refusal", "refusal": "I cannot help with that."}]),
    "wrapped refusal": AIMessage(
        [{"type": "non_standard", "value": {"type": "refusal", "refusal": "No."}}]
    ),
    "invalid call": AIMessage("", invalid_tool_calls=[BROKEN]),
    "invalid beside valid": AIMessage("", tool_calls=[weather()], invalid_tool_calls=[BROKEN]),
}


@pytest.mark.parametrize("message", NOT_STORED.values(), ids=NOT_STORED)
def test_what_must_not_be_repeated_is_not_stored(
    cache: SemanticLLMCache, message: AIMessage
) -> None:
    model = Chat(cache=cache).answering(message)
    model.invoke("hi there")
    assert model.invoke("hi there").content == "answer 2"
    assert cache.stats().failures == {}


def test_one_bad_generation_of_several_keeps_all_from_being_stored() -> None:
    good, bad = Generation(text="a"), Generation(text="")
    assert is_storable([good]) and not is_storable([good, bad])


def test_an_image_is_an_answer() -> None:
    message = AIMessage([{"type": "image", "base64": "AAAA", "mime_type": "image/png"}])
    assert is_storable([ChatGeneration(message=message)])


# -- the words of it -------------------------------------------------------------------------------


def test_the_words_of_an_answer_are_what_a_user_reads() -> None:
    thought = {"type": "reasoning", "reasoning": "Is it warm?"}
    blocks = [thought, {"type": "text", "text": "It is"}, {"type": "text", "text": " warm."}]
    chat = ChatGeneration(message=AIMessage(blocks, id="run-1", response_metadata={"a": 1}))
    assert plain_text([chat]) == "It is warm."
    assert plain_text([chat, Generation(text="Or cold.")]) == "It is warm.\n\nOr cold."


@pytest.mark.parametrize(
    "message",
    [
        calling(),
        AIMessage("Let me see.", tool_calls=[weather()]),
        AIMessage([{"type": "text", "text": "Here:"}, {"type": "image", "url": "a"}]),
    ],
    ids=["call in blocks", "call", "image"],
)
def test_where_words_are_not_all_of_the_answer_there_are_none(message: AIMessage) -> None:
    text = ChatGeneration(message=AIMessage("It is warm."))
    assert plain_text([ChatGeneration(message=message)]) is None
    assert plain_text([text, ChatGeneration(message=message)]) is None
