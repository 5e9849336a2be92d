"""A chat model that judges whether an answer to one question also answers another."""

import contextvars

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from semcache_core import SemcacheError
from semcache_core.adapters import JUDGE_PROMPT, check_judge_prompt, told_to_judge, verdict

from langchain_semcache.wrapper import unobserved


class ChatVerifier:
    """A second opinion by `model`, any LangChain chat model; a small and fast one will do.

    `prompt` is its system message, and has to ask for YES or NO; a JSON object with
    `question_asked`, `question_answered` and `answer` follows it. Nothing of it is cached, and the
    call belongs to no run of the app: no callback hears of it, so no stream shows its tokens. Of a
    `CachedChatModel` the model in it is asked. Raises SemcacheError for anything but a chat model,
    and for a prompt that is no text.
    """

    def __init__(self, model: BaseChatModel, prompt: str = JUDGE_PROMPT) -> None:
        if not isinstance(model, BaseChatModel):
            raise SemcacheError(
                f"model must be a LangChain chat model, got a {type(model).__name__}; set its "
                "parameters on the model itself"
            )
        check_judge_prompt(prompt)
        self._model = unobserved(model)  # LangChain's global cache may be the one that is asking
        self._prompt = prompt

    def verify(self, asked: str, stored: str, response: str) -> float:
        """1 for YES and 0 for NO; ValueError for anything else that the model says.

        Whatever the provider's client raises is passed on.
        """
        # LangChain finds the callbacks of the app's run in the context: the call gets an empty one
        answer = contextvars.Context().run(self._ask, asked, stored, response)
        return verdict(answer.text)

    def _ask(self, asked: str, stored: str, response: str) -> AIMessage:
        told = told_to_judge(asked, stored, response)
        return self._model.invoke([SystemMessage(self._prompt), HumanMessage(told)])
