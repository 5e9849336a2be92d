"""Tools whose results differ from call to call, so that nothing that follows one is cached."""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from semcache_core import SemcacheError


class UncachedTools:
    """Tells where in a conversation one of them was called.

    Anywhere, not only since the last human message: a later turn builds on what it gave ("and an
    hour later?"), for as long as the model is shown it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Raises SemcacheError for anything but a sequence of names."""
        is_sequence = isinstance(names, Sequence) and not isinstance(names, str)
        if not is_sequence or not all(isinstance(name, str) for name in names):
            raise SemcacheError(
                f'uncached_tools must be a sequence of tool names, got {names!r}; write ("clock",)'
            )
        self._names = frozenset(names)

    def called_in(self, messages: Sequence[BaseMessage]) -> bool:
        """Whether one of them has been called in `messages`, by the agent or by the provider."""
        return any(self._names & _named_in(message) for message in messages)

    def ran_inside(self, answer: Sequence[BaseMessage]) -> bool:
        """Whether the provider ran one to make `answer`; a call that it asks for runs later."""
        return any(
            self._names & _names_in_blocks(message) - _names_of_calls(message)
            for message in answer
            if isinstance(message, AIMessage)
        )


def _named_in(message: BaseMessage) -> set[str]:
    if isinstance(message, AIMessage):
        return _names_of_calls(message) | _names_in_blocks(message)
    return {str(message.name)} if isinstance(message, ToolMessage) else set()


def _names_of_calls(message: AIMessage) -> set[str]:
    return {str(call["name"]) for call in (*message.tool_calls, *message.invalid_tool_calls)}


def _names_in_blocks(message: AIMessage) -> set[str]:
    """As OpenAI (type `web_search_call`) and Anthropic (a name) say what they ran themselves."""
    blocks = [block for block in message.content if isinstance(block, dict)]
    by_type = {str(block.get("type")).removesuffix("_call") for block in blocks}
    return by_type | {str(block["name"]) for block in blocks if "name" in block}
