"""LangChain's cache interface over a SemanticCache."""

from langchain_semcache.cache import SemanticLLMCache

__all__ = ["SemanticLLMCache"]
