"""ChatVerifier: a LangChain chat model as the judge of hits."""

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage
from semcache_core import SemcacheError
from semcache_core.adapters import JUDGE_PROMPT, JudgeVerifier

from langchain_semcache.wrapper import unobserved


class ChatVerifier(JudgeVerifier):
    """A second opinion by `model`, any LangChain chat model; a small and fast one is enough.

    `prompt` is the system message and must ask for YES or NO. A JSON object with `question_asked`,
    `question_answered` and `answer` follows. The call is not cached and not part of the app's run:
    callbacks and streams do not show it. For a `CachedChatModel`, its inner model is asked. Raises
    SemcacheError for anything but a chat model, and for a prompt that is not a text.
    """

    def __init__(self, model: BaseChatModel, prompt: str = JUDGE_PROMPT) -> None:
        if not isinstance(model, BaseChatModel):
            raise SemcacheError(
                f"model must be a LangChain chat model, got a {type(model).__name__}; set its "
                "parameters on the model itself"
            )
        super().__init__(self._answer, prompt)
        self._model = unobserved(model)  # LangChain's global cache may be the one that is asking

    def _answer(self, system: str, user: str) -> str:
        return self._model.invoke([SystemMessage(system), HumanMessage(user)]).text
