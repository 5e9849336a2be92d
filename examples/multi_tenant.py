"""A service for many tenants: one cache, and no tenant ever sees what another one's app said.

Run it with `python examples/multi_tenant.py`; put your own model in for the stand-in.
"""

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.runnables import RunnableConfig

from langchain_semcache import SemanticCacheMiddleware


def main(model: BaseChatModel) -> None:
    middleware = SemanticCacheMiddleware(path=None)
    agent = create_agent(model, system_prompt="You are a help desk.", middleware=[middleware])

    def serve(tenant: object, question: str) -> None:
        """What your web framework calls; it knows from the login who the tenant is."""
        config: RunnableConfig = {"configurable": {"semcache_namespace": tenant}}
        answer = agent.invoke({"messages": [("user", question)]}, config)["messages"][-1]
        hit = answer.response_metadata.get("semcache")
        source = f"{hit['kind']} hit" if hit else "the model"
        print(f"{tenant}: {question}\n   {answer.text}   [{source}]")

    serve("acme", "How do I reset my password?")
    serve("globex", "How do I reset my password?")  # the same words, but not acme's answer
    serve("acme", "How can I reset my password?")
    serve("globex", "How can I reset my password?")
    serve(None, "How do I reset my password?")  # a bug in the app: served nothing, stored nowhere
    print(f"acme is gone, and with it {middleware.cache.clear(namespace='acme')} answer")
    serve("acme", "How do I reset my password?")
    serve("globex", "How do I reset my password?")


STAND_IN = FakeListChatModel(
    responses=[
        "Ask acme's help desk for a new one.",
        "Choose Forgot password on globex.example.",
        "Who are you?",
        "Ask acme's new help desk.",
    ]
)
"""Answers from a list. Your own: `init_chat_model("openai:gpt-4.1-mini")`."""

if __name__ == "__main__":
    main(STAND_IN)
