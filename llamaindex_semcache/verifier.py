"""LLMVerifier: a LlamaIndex LLM as the judge of hits."""

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.llms.llm import LLM
from semcache_core import SemcacheError
from semcache_core.adapters import JUDGE_PROMPT, JudgeVerifier

from llamaindex_semcache.wrapper import unobserved


class LLMVerifier(JudgeVerifier):
    """A second opinion by `llm`, any LlamaIndex LLM; a small and fast one is enough.

    `prompt` is the system message and must ask for YES or NO. A JSON object with `question_asked`,
    `question_answered` and `answer` follows. The call is not cached, and no callback counts its
    tokens. For a `CachedLLM`, its inner LLM is asked. Raises SemcacheError for anything but an LLM,
    and for a prompt that is not a text.
    """

    def __init__(self, llm: LLM, prompt: str = JUDGE_PROMPT) -> None:
        if not isinstance(llm, LLM):
            raise SemcacheError(
                f"llm must be a LlamaIndex LLM, got a {type(llm).__name__}; set its parameters on "
                "the LLM itself"
            )
        super().__init__(self._answer, prompt)
        self._llm = unobserved(llm)

    def _answer(self, system: str, user: str) -> str:
        messages = [
            ChatMessage(role=MessageRole.SYSTEM, content=system),
            ChatMessage(role=MessageRole.USER, content=user),
        ]
        return self._llm.chat(messages).message.content or ""
