"""Which tools were called in a conversation, for `UncachedTools`."""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage


def tools_called_in(messages: Sequence[BaseMessage]) -> set[str]:
    """The names of all tools called in `messages`, by the agent or by the provider."""
    return set[str]().union(*map(_named_in, messages))


def tools_run_inside(answer: Sequence[BaseMessage]) -> set[str]:
    """Of those that the provider ran to make `answer`; a call that it asks for runs later."""
    messages = [message for message in answer if isinstance(message, AIMessage)]
    return set[str]().union(*(_names_in_blocks(one) - _names_of_calls(one) for one in messages))


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
