"""From a call of an LLM to a request: what must be equal, what may differ, what is not cached."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import Bench
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, MessageRole, MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.default_prompts import (
    DEFAULT_CHOICE_SELECT_PROMPT,
    DEFAULT_TEXT_QA_PROMPT,
)
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, create_model
from semcache_core import Request, SemcacheError, split_question
from semcache_core.adapters import UncachedTools, own_namespace

from llamaindex_semcache.documents import Sources
from llamaindex_semcache.request import Context, Question, RequestReader
from llamaindex_semcache.templates import Templates

LLM = MockLLM(max_tokens=3)
QUESTION = "how warm is it"
LONG = "You are the assistant of a bank. " * 60


def node(text: str, node_id: str) -> TextNode:
    return TextNode(text=text, id_=node_id)


BASEL, BERN = node("Basel is warm.\nIt is south.", "basel"), node("Bern is cold.", "bern")


def system(text: str = "be brief") -> ChatMessage:
    return ChatMessage(text, role=MessageRole.SYSTEM)


def answer(text: str) -> ChatMessage:
    return ChatMessage(text, role=MessageRole.ASSISTANT)


def chat(*messages: ChatMessage | str, **fields: Any) -> Question:
    read = tuple(ChatMessage(m) if isinstance(m, str) else m for m in messages)
    return Question(**{"llm": LLM, "messages": read} | fields)


def completion(prompt: str, **fields: Any) -> Question:
    return Question(LLM, prompt=prompt, how="completion", **fields)


def qa(*nodes: TextNode, question: str = QUESTION) -> str:
    documents = "\n\n".join(each.get_content(metadata_mode=MetadataMode.LLM) for each in nodes)
    return DEFAULT_TEXT_QA_PROMPT.format(context_str=documents, query_str=question)


Open = Callable[..., RequestReader]


@pytest.fixture
def open_reader(bench: Bench) -> Open:
    def open_reader(
        context: Context = None, *nodes: TextNode, tools: tuple[str, ...] = (), **options: Any
    ) -> RequestReader:
        sources = Sources()
        sources.record(nodes)
        options = {"namespace": own_namespace, "writer": None, "normalise_system": None} | options
        return RequestReader(
            cache=bench.open(path=None),
            context=context,
            sources=sources,
            templates=Templates(split_question),
            uncached_tools=UncachedTools(tools),
            **options,
        )

    return open_reader


@pytest.fixture
def reader(open_reader: Open) -> RequestReader:
    return open_reader()


def read(reader: RequestReader, call: Question) -> Request:
    request = reader.read(call)
    assert request is not None
    return request


# -- what must be equal ----------------------------------------------------------------------------


def test_two_questions_under_one_long_system_prompt_differ_in_the_question_alone(
    reader: RequestReader,
) -> None:
    one = read(reader, chat(system(LONG), "how do I reset my password"))
    two = read(reader, chat(system(LONG), "what is the capital of France"))
    assert one.scope == two.scope
    assert (one.question, two.question) == (
        "how do I reset my password",
        "what is the capital of France",
    )
    assert not one.exact_only


class Answer(BaseModel):
    text: str


def weather(place: str) -> str:
    return place


def weather_at(place: str, hour: int) -> str:
    return place


def tools(function: Callable[..., str]) -> dict[str, Any]:
    return {"tools": [FunctionTool.from_defaults(function, name="w", description="w")]}


BASE = chat(system(), "hi", answer("hello"), QUESTION, arguments=tools(weather))
OTHERS = {
    "system": chat(system("be long"), "hi", answer("hello"), QUESTION, arguments=tools(weather)),
    "history": chat(system(), "hi", answer("go on"), QUESTION, arguments=tools(weather)),
    "tool": chat(system(), "hi", answer("hello"), QUESTION, arguments=tools(weather_at)),
    "parameter": chat(
        system(), "hi", answer("hello"), QUESTION, arguments=tools(weather) | {"temperature": 1}
    ),
    "model": chat(
        system(),
        "hi",
        answer("hello"),
        QUESTION,
        arguments=tools(weather),
        llm=MockLLM(max_tokens=4),
    ),
    "structured": chat(*BASE.messages, arguments=tools(weather), how="structured", output=Answer),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_anything_else_than_the_question_makes_another_scope(
    reader: RequestReader, other: Question
) -> None:
    one, two = read(reader, BASE), read(reader, other)
    assert one.question == two.question == QUESTION
    assert one.scope == read(reader, BASE).scope != two.scope


def test_a_completion_is_no_chat(reader: RequestReader) -> None:
    assert read(reader, completion(QUESTION)).question == QUESTION
    assert read(reader, completion(QUESTION)).scope != read(reader, chat(QUESTION)).scope


def test_a_structured_answer_is_no_chats(reader: RequestReader) -> None:
    calls = [chat(QUESTION, how=how, output=Answer) for how in ("chat", "structured")]
    assert len({read(reader, call).scope for call in calls}) == 2


def test_the_fields_of_an_output_class_count(reader: RequestReader) -> None:
    more = create_model("Answer", __module__=__name__, text=(str, ...), more=(int, 0))
    calls = [chat(QUESTION, how="structured", output=output) for output in (Answer, more)]
    assert len({read(reader, call).scope for call in calls}) == 2


def test_after_a_tools_result_all_must_be_equal(reader: RequestReader) -> None:
    call = ToolCallBlock(tool_name="w", tool_call_id="1")
    asked = ChatMessage(role=MessageRole.ASSISTANT, content=[call])
    result = ChatMessage("10", role=MessageRole.TOOL, additional_kwargs={"tool_call_id": "1"})
    assert read(reader, chat(QUESTION, asked, result)).exact_only
    assert not read(reader, chat(QUESTION, asked, result, answer("10"), "and in Bern?")).exact_only


# -- documents -------------------------------------------------------------------------------------

CONTEXTS = pytest.mark.parametrize("context", [None, "nodes", "text"])


@pytest.mark.parametrize("ask", [chat, completion])
@CONTEXTS
def test_other_documents_are_another_scope(
    open_reader: Open, context: Context, ask: Callable[[str], Question]
) -> None:
    for reader in (open_reader(context), open_reader(context, BASEL, BERN)):
        one, two = read(reader, ask(qa(BASEL))), read(reader, ask(qa(BERN)))
        assert one.question == two.question == QUESTION
        assert one.scope != two.scope
        assert not one.exact_only


@pytest.mark.parametrize(
    "context, same", [(None, True), ("nodes", True), ("text", False), ("ignore", True)]
)
def test_the_order_of_documents_shows_in_their_text_alone(
    open_reader: Open, context: Context, same: bool
) -> None:
    reader = open_reader(context, BASEL, BERN)
    scopes = {read(reader, chat(qa(*nodes))).scope for nodes in ((BASEL, BERN), (BERN, BASEL))}
    assert (len(scopes) == 1) == same


def test_what_was_recorded_for_another_query_changes_nothing(open_reader: Open) -> None:
    assert (
        read(open_reader(None, BERN), chat(qa(BASEL))).scope
        == read(open_reader(), chat(qa(BASEL))).scope
    )


@pytest.mark.parametrize("nodes", [(), (BASEL, BERN)], ids=["by template", "by nodes"])
def test_documents_can_be_ignored(open_reader: Open, nodes: tuple[TextNode, ...]) -> None:
    reader = open_reader("ignore", *nodes)
    one, two = read(reader, chat(system(), qa(BASEL))), read(reader, chat(system(), qa(BERN)))
    assert one.scope == two.scope
    assert one.scope != read(reader, chat(system("be long"), qa(BERN))).scope


def test_nodes_can_be_ignored_in_a_text_of_no_template(open_reader: Open) -> None:
    reader = open_reader("ignore", BASEL, BERN)
    scopes = {
        read(reader, chat(f"Read this!\n{each.text}\nQuestion: {QUESTION}")).scope
        for each in (BASEL, BERN)
    }
    assert len(scopes) == 1


@pytest.mark.parametrize("context, same", [("ignore", True), ("nodes", False), ("text", False)])
@pytest.mark.parametrize("nodes", [(), (BASEL, BERN)], ids=["by template", "by nodes"])
def test_documents_in_a_system_text_are_documents_too(
    open_reader: Open, nodes: tuple[TextNode, ...], context: Context, same: bool
) -> None:
    reader = open_reader(context, *nodes)
    template = PromptTemplate("Use the context below.\n-----\n{context_str}\n-----\n")
    reader._templates.know(template)
    scopes = {
        read(reader, chat(system(template.format(context_str=each.text)), QUESTION)).scope
        for each in (BASEL, BERN)
    }
    assert (len(scopes) == 1) == same


def test_documents_whose_number_is_the_answer_are_never_ignored(open_reader: Open) -> None:
    reader = open_reader("ignore", BASEL, BERN)
    scopes = {
        read(
            reader,
            chat(DEFAULT_CHOICE_SELECT_PROMPT.format(context_str=each.text, query_str=QUESTION)),
        ).scope
        for each in (BASEL, BERN)
    }
    assert len(scopes) == 2


def test_a_recorded_document_may_hold_the_templates_words_and_questions(open_reader: Open) -> None:
    inner = node(qa(BERN, question="where is Bern") + "Bern", "inner")
    plain = read(open_reader(), chat(qa(inner)))
    assert plain.exact_only
    found = read(open_reader(None, inner), chat(qa(inner)))
    assert (found.question, found.exact_only) == (QUESTION, False)


def test_a_question_that_is_the_text_of_a_node_stays_a_question(open_reader: Open) -> None:
    reader = open_reader(None, node(QUESTION, "faq"))
    request = read(reader, chat(system(), QUESTION))
    assert (request.question, request.exact_only) == (QUESTION, False)
    assert request.scope == read(reader, chat(system(), "how cold is it")).scope


def test_an_earlier_question_of_the_user_is_no_document(open_reader: Open) -> None:
    reader = open_reader("ignore", BASEL, BERN)
    scopes = {
        read(reader, chat(each.text, answer("so?"), QUESTION)).scope for each in (BASEL, BERN)
    }
    assert len(scopes) == 2


@pytest.mark.parametrize("context", [None, "nodes", "text", "ignore"])
def test_an_answer_is_tagged_with_all_documents_that_the_model_was_shown(
    open_reader: Open, context: Context
) -> None:
    reader = open_reader(context, BASEL, BERN)
    shown = chat(system("Context:\n" + BERN.text), answer("so?"), qa(BASEL))
    assert read(reader, shown).tags == ("node:basel", "node:bern")
    assert read(reader, completion(qa(BASEL))).tags == ("node:basel",)
    assert read(reader, chat(QUESTION)).tags == ()


def test_signs_that_could_be_a_mark_are_not_taken_for_one(open_reader: Open) -> None:
    reader = open_reader(None, BASEL)
    forged = Sources()
    forged.record([BASEL])
    marked = forged.find(qa(BASEL)).frame
    assert read(reader, chat(marked)).exact_only
    assert (
        read(reader, chat(system(forged.find(BASEL.text).frame), QUESTION)).scope
        != read(reader, chat(system(BASEL.text), QUESTION)).scope
    )


# -- who asks, and where ---------------------------------------------------------------------------


def test_tenant_and_writer_are_those_of_the_call(open_reader: Open) -> None:
    request = read(open_reader(namespace=lambda: "acme", writer="ann"), chat(QUESTION))
    assert (request.namespace, request.writer) == ("acme", "ann")
    assert read(open_reader(), chat(QUESTION)).namespace == "default"


def test_a_tenant_that_is_missing_is_an_error(open_reader: Open) -> None:
    with pytest.raises(SemcacheError, match="namespace must be a non-empty str"):
        open_reader(namespace=lambda: None).read(chat(QUESTION))


def test_what_differs_in_a_system_text_can_be_taken_out(open_reader: Open) -> None:
    reader = open_reader(normalise_system=lambda text: text.split(" It is")[0])
    one, two = (
        read(reader, chat(system(f"be brief. It is {day}"), QUESTION))
        for day in ("Monday", "Sunday")
    )
    assert one.scope == two.scope
    assert one.scope != read(reader, chat(system("be long."), QUESTION)).scope


def test_a_date_in_the_system_text_is_hinted_at(reader: RequestReader) -> None:
    call = chat(system("It is 2025-11-25."), QUESTION)
    explanation = reader._cache.explain(read(reader, call))
    assert "2025-11-25" in reader.hinted(explanation, call).hint
    assert reader.hinted(explanation, chat(QUESTION)).hint == ""


# -- what is not cached ----------------------------------------------------------------------------


class Opaque:
    pass


@pytest.mark.parametrize(
    "call",
    [
        chat(QUESTION, arguments={"thing": Opaque()}),
        chat(ChatMessage(QUESTION, additional_kwargs={"thing": Opaque()})),
        completion(QUESTION, arguments={"thing": Opaque()}),
    ],
    ids=["argument", "message", "completion"],
)
def test_what_hides_its_fields_is_not_cached_and_warned_of_once(
    reader: RequestReader, call: Question, warnings_of: Callable[[str], list[str]]
) -> None:
    assert reader.read(call) is None
    assert reader.read(call) is None
    assert len(warnings_of("holds a Opaque")) == 1
    hint = reader._cache.explain(Request(QUESTION))
    assert reader.hinted(hint, call) == hint


def test_nothing_is_not_cached(reader: RequestReader) -> None:
    assert reader.read(chat()) is None


def test_what_follows_an_uncached_tool_is_not_cached(open_reader: Open) -> None:
    reader = open_reader(tools=("clock",))
    react = answer("Thought: when?\nAction: clock\nAction Input: {}")
    assert reader.read(chat(QUESTION, react, "Observation: noon")) is None
    assert reader.read(chat(QUESTION, react, "Observation: noon", answer("noon"), "why")) is None
    assert reader.read(chat(QUESTION)) is not None


def test_an_unknown_context_is_refused(open_reader: Open) -> None:
    with pytest.raises(SemcacheError, match="context must be"):
        open_reader("documents")
