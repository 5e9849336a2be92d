"""Where the question is in a text made from a prompt template, and where that cannot be told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.chat_engine.condense_plus_context import (
    DEFAULT_CONDENSE_PROMPT_TEMPLATE,
    DEFAULT_CONTEXT_PROMPT_TEMPLATE,
)
from llama_index.core.chat_engine.condense_question import DEFAULT_PROMPT as CONDENSE_QUESTION
from llama_index.core.extractors.metadata_extractors import (
    DEFAULT_KEYWORD_EXTRACT_TEMPLATE,
    DEFAULT_TITLE_COMBINE_TEMPLATE,
)
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import (
    BasePromptTemplate,
    ChatPromptTemplate,
    PromptTemplate,
    PromptType,
    RichPromptTemplate,
)
from llama_index.core.prompts.chat_prompts import CHAT_REFINE_PROMPT, CHAT_TEXT_QA_PROMPT
from llama_index.core.prompts.default_prompt_selectors import DEFAULT_TEXT_QA_PROMPT_SEL
from llama_index.core.prompts.default_prompts import (
    DEFAULT_CHOICE_SELECT_PROMPT,
    DEFAULT_QUERY_PROMPT,
    DEFAULT_REFINE_PROMPT,
    DEFAULT_TEXT_QA_PROMPT,
    DEFAULT_TREE_SUMMARIZE_PROMPT,
)
from semcache_core import Split, split_question

from llamaindex_semcache.templates import Templates

TEMPLATES = Templates(split_question)
DOCUMENTS = "Basel is a city.\n\nA question: is it? Query: it is.\nBern is one too."
QUESTION = "where is Basel"


def split(text: str) -> Split:
    found = TEMPLATES(text)
    assert found is not None
    return found


def rendered(prompt: BasePromptTemplate, **values: Any) -> str:
    """The last message of a chat template, the text of another one."""
    content = prompt.format_messages(**values)[-1].content
    assert content is not None
    return content


OWN = {
    "text_qa": (DEFAULT_TEXT_QA_PROMPT, "context_str", "query_str"),
    "chat_text_qa": (CHAT_TEXT_QA_PROMPT, "context_str", "query_str"),
    "tree_summarize": (DEFAULT_TREE_SUMMARIZE_PROMPT, "context_str", "query_str"),
    "refine": (DEFAULT_REFINE_PROMPT, "context_msg", "query_str"),
    "chat_refine": (CHAT_REFINE_PROMPT, "context_msg", "query_str"),
    "choice_select": (DEFAULT_CHOICE_SELECT_PROMPT, "context_str", "query_str"),
    "tree_select": (DEFAULT_QUERY_PROMPT, "context_list", "query_str"),
    "condense_question": (CONDENSE_QUESTION, "chat_history", "question"),
    "condense": (PromptTemplate(DEFAULT_CONDENSE_PROMPT_TEMPLATE), "chat_history", "question"),
}
ALL = pytest.mark.parametrize("prompt, documents, question", OWN.values(), ids=OWN)


# -- LlamaIndex's own templates --------------------------------------------------------------------


@ALL
def test_the_question_is_the_part_of_its_variable(
    prompt: BasePromptTemplate, documents: str, question: str
) -> None:
    text = rendered(
        prompt, **{documents: DOCUMENTS, question: QUESTION}, existing_answer="a city", num_chunks=2
    )
    found = split(text)
    assert found.question == QUESTION
    assert DOCUMENTS in found.frame and QUESTION not in found.frame


@ALL
def test_other_documents_are_another_frame(
    prompt: BasePromptTemplate, documents: str, question: str
) -> None:
    frames = {
        split(rendered(prompt, **{documents: each, question: QUESTION})).frame
        for each in (DOCUMENTS, DOCUMENTS + "\nBern is not.")
    }
    assert len(frames) == 2


def test_an_existing_answer_is_part_of_the_frame() -> None:
    values = {"query_str": QUESTION, "context_msg": DOCUMENTS}
    frames = {
        split(DEFAULT_REFINE_PROMPT.format(existing_answer=answer, **values)).frame
        for answer in ("in Switzerland", "in France")
    }
    assert len(frames) == 2


def test_a_selected_template_is_known_in_each_form() -> None:
    prompt = DEFAULT_TEXT_QA_PROMPT_SEL.select(MockLLM(is_chat_model=True))
    text = rendered(prompt, context_str=DOCUMENTS, query_str=QUESTION)
    assert split(text).question == QUESTION


# -- never a guess ---------------------------------------------------------------------------------


def test_a_document_with_the_templates_own_words_can_only_be_matched_exactly() -> None:
    inner = DEFAULT_TEXT_QA_PROMPT.format(context_str="Bern.", query_str="where is Bern")
    text = DEFAULT_TEXT_QA_PROMPT.format(context_str=inner, query_str=QUESTION)
    assert TEMPLATES(text) is None


@pytest.mark.parametrize(
    "query",
    ["Context: Basel is in France. where is Basel", "given that it rains, go out?", "two\nlines"],
)
def test_a_query_with_its_own_documents_can_only_be_matched_exactly(query: str) -> None:
    assert split_question(query) is None
    assert TEMPLATES(DEFAULT_TEXT_QA_PROMPT.format(context_str="x", query_str=query)) is None


def test_a_query_of_several_lines_is_a_question_where_the_fallback_takes_it() -> None:
    templates = Templates(lambda text: Split(text, ""))
    found = templates(DEFAULT_TEXT_QA_PROMPT.format(context_str="x", query_str="where\nis Basel"))
    assert found is not None and found.question == "where\nis Basel"


def test_what_the_fallback_leaves_of_a_query_is_part_of_the_frame() -> None:
    query = "Name: {}. Question: where is Basel"
    one, two = (
        split(DEFAULT_TEXT_QA_PROMPT.format(context_str="x", query_str=query.format(name)))
        for name in ("Ann", "Bob")
    )
    assert one.question == two.question == QUESTION
    assert one.frame != two.frame


def test_an_empty_query_is_no_question() -> None:
    assert TEMPLATES(DEFAULT_TEXT_QA_PROMPT.format(context_str="x", query_str=" ")) is None


@pytest.mark.parametrize("text", ["where is Basel", "Context: x\n\nQuestion: where is Basel"])
def test_a_text_of_no_template_is_the_fallbacks(text: str) -> None:
    assert TEMPLATES(text) == split_question(text)


# -- templates that were shown ---------------------------------------------------------------------

OWN_WORDS = "Facts for {who}:\n{facts}\nAnswer this: {query_str}\nBriefly."


def shown(prompt: BasePromptTemplate) -> Templates:
    templates = Templates(split_question)
    templates.know(prompt)
    return templates


def test_a_template_is_known_once_it_was_shown() -> None:
    prompt = PromptTemplate(OWN_WORDS)
    text = prompt.format(who="Ann", facts=DOCUMENTS, query_str=QUESTION)
    assert TEMPLATES(text) != (found := shown(prompt)(text))
    assert found is not None and found.question == QUESTION


def test_partial_values_are_read_like_any_other() -> None:
    prompt = PromptTemplate(OWN_WORDS).partial_format(who="Ann", query_str=QUESTION)
    found = shown(prompt)(prompt.format(facts=DOCUMENTS))
    assert found is not None and found.question == QUESTION


def test_variables_are_known_by_the_names_that_they_are_mapped_to() -> None:
    prompt = PromptTemplate(
        "Documents:\n{docs}\nAsked: {asked}!",
        template_var_mappings={"query_str": "asked", "context_str": "docs"},
    )
    text = prompt.format(context_str=DOCUMENTS, query_str=QUESTION)
    found = shown(prompt).split(text, ignore_context=True)
    assert found is not None and found.question == QUESTION
    assert DOCUMENTS not in found.frame


def test_functions_of_a_template_are_not_called() -> None:
    def fail(**kwargs: Any) -> str:
        raise AssertionError

    shown(PromptTemplate(OWN_WORDS, function_mappings={"facts": fail}))


def test_a_chat_templates_user_text_is_known() -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "be brief"), ("user", OWN_WORDS)])
    text = rendered(prompt, who="Ann", facts=DOCUMENTS, query_str=QUESTION)
    found = shown(prompt)(text)
    assert found is not None and found.question == QUESTION


@pytest.mark.parametrize("frame", ["{}", '{{% chat role="user" %}}\n{}\n{{% endchat %}}'])
def test_a_rich_template_is_known(frame: str) -> None:
    words = "Facts:\n{{ context_str }}\nAnswer this: {{ query_str }}\nBriefly."
    prompt = RichPromptTemplate(frame.format(words))
    text = rendered(prompt, context_str=DOCUMENTS, query_str=QUESTION)
    found = shown(prompt)(text)
    assert found is not None and found.question == QUESTION


def test_what_a_rich_template_makes_in_a_loop_is_part_of_the_frame() -> None:
    loop = "{% for d in docs %}{% if d %}{{ query_str }} {{ d }}{% endif %}\n{% endfor %}"
    prompt = RichPromptTemplate(f"Query: none.\n{loop}\nAsk: {{{{ query_str }}}}\nBriefly.")
    frames = set()
    for docs in (["Basel.", "Bern."], ["Bern.", "Basel."], []):
        found = shown(prompt)(rendered(prompt, docs=docs, query_str=QUESTION))
        assert found is not None and found.question == QUESTION
        frames.add(found.frame)
    assert len(frames) == 3
    assert shown(prompt)(rendered(prompt, docs=["\nAsk: you"], query_str=QUESTION)) is None


def test_a_rich_template_with_a_comment_is_not_looked_for() -> None:
    prompt = RichPromptTemplate("{# a note #}\nAsk: {{ query_str }}\nBriefly.")
    assert TEMPLATES._sorted == shown(prompt)._sorted


def test_a_question_that_stands_twice_must_be_the_same_twice() -> None:
    prompt = PromptTemplate("Asked: {query_str}.\nAgain: {query_str}!")
    templates = shown(prompt)
    found = templates(prompt.format(query_str=QUESTION))
    assert found is not None and found.question == QUESTION
    assert templates("Asked: where is Basel.\nAgain: where is Bern!") is None


def test_the_template_with_most_words_decides() -> None:
    vague = PromptTemplate("Context {context_str}\nQuery: {query_str}")
    text = DEFAULT_TEXT_QA_PROMPT.format(context_str=DOCUMENTS, query_str=QUESTION)
    assert shown(vague)(text) == TEMPLATES(text)


@pytest.mark.parametrize(
    "template", [DEFAULT_KEYWORD_EXTRACT_TEMPLATE, DEFAULT_TITLE_COMBINE_TEMPLATE]
)
def test_documents_without_a_question_can_only_be_matched_exactly(template: str) -> None:
    """On a single line they would be taken for a question, and found by their likeness."""
    prompt = PromptTemplate(template)
    text = prompt.format(context_str="Basel lies on the Rhine", keywords=5)
    assert split_question(text) is not None
    assert shown(prompt)(text) is None


@pytest.mark.parametrize("template", ["{query_str}", "{context_str}\n{query_str}", "no variables"])
def test_a_template_without_words_or_variables_is_not_looked_for(template: str) -> None:
    assert TEMPLATES._sorted == shown(PromptTemplate(template))._sorted


def test_only_the_last_templates_are_kept_and_llamaindexs_own() -> None:
    templates = Templates(split_question)
    prompts = [PromptTemplate(f"No. {i}!\n{{query_str}}\nGo on") for i in range(300)]
    for prompt in prompts:
        templates.know(prompt)
    assert templates(prompts[0].format(query_str=QUESTION)) is None
    last = templates(prompts[-1].format(query_str=QUESTION))
    assert last is not None and last.question == QUESTION
    own = templates(DEFAULT_TEXT_QA_PROMPT.format(context_str="x", query_str=QUESTION))
    assert own is not None
    assert len(templates._sorted) == len(TEMPLATES._sorted) + 256


# -- without the documents -------------------------------------------------------------------------


def test_documents_can_be_ignored() -> None:
    frames = set()
    for documents in (DOCUMENTS, "Bern is a city."):
        text = DEFAULT_TEXT_QA_PROMPT.format(context_str=documents, query_str=QUESTION)
        found = TEMPLATES.split(text, ignore_context=True)
        assert found is not None and found.question == QUESTION
        frames.add(found.frame)
    assert len(frames) == 1


def test_an_existing_answer_is_never_ignored() -> None:
    values = {"query_str": QUESTION, "context_msg": DOCUMENTS}
    texts = [DEFAULT_REFINE_PROMPT.format(existing_answer=a, **values) for a in ("one", "two")]
    assert TEMPLATES.split(texts[0], True) != TEMPLATES.split(texts[1], True)


def test_documents_whose_number_is_asked_for_are_never_ignored() -> None:
    texts = [
        DEFAULT_CHOICE_SELECT_PROMPT.format(context_str=documents, query_str=QUESTION)
        for documents in (DOCUMENTS, "Bern is a city.")
    ]
    assert TEMPLATES.chooses(texts[0])
    assert TEMPLATES.split(texts[0], True) != TEMPLATES.split(texts[1], True)
    own = PromptTemplate("Which?\n{context_str}\n{query_str}", prompt_type=PromptType.MULTI_SELECT)
    assert shown(own).chooses(own.format(context_str="a", query_str=QUESTION))
    assert not TEMPLATES.chooses(DEFAULT_TEXT_QA_PROMPT.format(context_str="x", query_str="y"))


def test_a_system_text_loses_its_documents() -> None:
    prompt = PromptTemplate(DEFAULT_CONTEXT_PROMPT_TEMPLATE)
    templates = shown(prompt)
    one, two = (prompt.format(context_str=each) for each in (DOCUMENTS, "Bern is a city."))
    assert templates.without_context(one) == templates.without_context(two)
    assert templates.without_context("be brief") == "be brief"


# -- any text --------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("\n---------------------\n", "Query: ", "\nAnswer: ", "Context information is below.\n"),
        *("Given the context information and not prior knowledge, answer the query.\n", "\n", " "),
        *("Basel", "where is", "?", "Context: ", "Question: ", "{query_str}", "\x00", "\\", "é"),
    ]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=40)
PROMPTS = st.sampled_from([DEFAULT_TEXT_QA_PROMPT, CHAT_TEXT_QA_PROMPT, DEFAULT_REFINE_PROMPT])


def render(prompt: BasePromptTemplate, documents: str, query: str) -> str:
    values = {"context_str": documents, "context_msg": documents, "existing_answer": documents}
    return rendered(prompt, **values, query_str=query)


@given(PROMPTS, TEXTS, TEXTS)
def test_the_question_is_the_querys_or_none(
    prompt: BasePromptTemplate, documents: str, query: str
) -> None:
    found, alone = TEMPLATES(render(prompt, documents, query)), split_question(query)
    if found is not None:
        assert alone is not None and found.question == alone.question


@given(PROMPTS, TEXTS.filter(lambda text: "\x00" not in text), st.data())
def test_two_document_sets_never_share(
    prompt: BasePromptTemplate, documents: str, data: st.DataObject
) -> None:
    others = data.draw(TEXTS.filter(lambda text: "\x00" not in text and text != documents))
    query, another = data.draw(TEXTS), data.draw(TEXTS)
    one = TEMPLATES(render(prompt, documents, query))
    two = TEMPLATES(render(prompt, others, another))
    assert one is None or one != two
