"""What an answer took, as its integration tells beside it."""

from typing import Any

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from semcache_core import Usage
from semcache_core.adapters import told_usage

from llamaindex_semcache.call import Call

# The names by which LlamaIndex's own token counter reads them.
_IN = ("prompt_tokens", "input_tokens", "prompt_token_count")
_OUT = ("completion_tokens", "output_tokens", "candidates_token_count")


def usage_of(call: Call, answer: object) -> Usage:
    """Tokens as far as `additional_kwargs` tell; of an object of the app's class nothing is known.

    Not those in `raw`: that is the provider's own object, of which the cache keeps nothing.
    """
    if not isinstance(answer, ChatResponse | CompletionResponse):
        return Usage()
    told = answer.additional_kwargs
    return told_usage(call.llm.metadata.model_name, _first(told, _IN), _first(told, _OUT))


def _first(told: dict[str, Any], names: tuple[str, ...]) -> object:
    return next((told[name] for name in names if told.get(name)), None)
