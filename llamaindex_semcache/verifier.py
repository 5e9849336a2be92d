"""An LLM that judges whether an answer to one question also answers another."""

import contextvars

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.llms.llm import LLM
from semcache_core import SemcacheError
from semcache_core.adapters import JUDGE_PROMPT, check_judge_prompt, told_to_judge, verdict

from llamaindex_semcache.wrapper import unobserved


class LLMVerifier:
    """A second opinion by `llm`, any LlamaIndex LLM; a small and fast one will do.

    `prompt` is its system message, and has to ask for YES or NO; a JSON object with
    `question_asked`, `question_answered` and `answer` follows it. Nothing of it is cached, and no
    callback counts its tokens. Of a `CachedLLM` the LLM in it is asked. Raises SemcacheError for
    anything but an LLM, and for a prompt that is no text.
    """

    def __init__(self, llm: LLM, prompt: str = JUDGE_PROMPT) -> None:
        if not isinstance(llm, LLM):
            raise SemcacheError(
                f"llm must be a LlamaIndex LLM, got a {type(llm).__name__}; set its parameters on "
                "the LLM itself"
            )
        check_judge_prompt(prompt)
        self._llm = unobserved(llm)
        self._prompt = prompt

    def verify(self, asked: str, stored: str, response: str) -> float:
        """1 for YES and 0 for NO; ValueError for anything else that the LLM says.

        Whatever the provider's client raises is passed on.
        """
        # the app's trace is in the context: the call gets an empty one
        answer = contextvars.Context().run(self._ask, told_to_judge(asked, stored, response))
        return verdict(answer.message.content or "")

    def _ask(self, told: str) -> ChatResponse:
        system = ChatMessage(role=MessageRole.SYSTEM, content=self._prompt)
        return self._llm.chat([system, ChatMessage(role=MessageRole.USER, content=told)])
