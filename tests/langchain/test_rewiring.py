"""A model is replaced wherever it can be seen in a chain, and the chain itself is left alone."""

from typing import Any

from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
from scripted_models import Scripted

from langchain_semcache.wrapper import rewired


def chains(model: Scripted) -> dict[str, Runnable[Any, Any]]:
    say = RunnableLambda(lambda answer: str(getattr(answer, "text", answer)))
    raw = {"raw": model.bind(stop=["."]), "other": say} | RunnablePassthrough.assign(
        text=lambda answers: answers["raw"].text
    )
    return {
        "the model": model,
        "a binding": model.bind(stop=["."]).with_config(tags=["a"]),
        "a sequence": say | model | say,
        "a longer one": say | say | model.bind(stop=["."]) | say | say,
        "a map": raw,
        "retries": model.with_retry(stop_after_attempt=2),
        "a first choice": model.with_fallbacks([say]),
        "a fallback": RunnableLambda(fail).with_fallbacks([say | fail, model]),
    }


def fail(_: Any) -> Any:
    raise ValueError("no")


def test_each_chain_asks_the_other_model_and_the_first_is_left() -> None:
    for name in chains(Scripted()):
        model, other = Scripted(), Scripted()
        chain = chains(model)[name]
        changed = rewired(chain, lambda found, other=other: other)
        assert type(changed) is type(chain)
        changed.invoke("hi there")
        assert (model.asked, other.asked) == (0, 1), name
        chain.invoke("hi there")
        assert (model.asked, other.asked) == (1, 1), name


def test_what_a_binding_binds_is_kept() -> None:
    bound = Scripted().bind(stop=["."]).with_config(tags=["a"])
    changed: Any = rewired(bound, lambda model: model)
    assert (changed.kwargs, changed.config) == (bound.kwargs, bound.config)


def test_what_a_function_closes_over_stays() -> None:
    model, other = Scripted(), Scripted()
    chain = RunnableLambda(lambda text: model.invoke(text))
    assert rewired(chain, lambda found: other) is chain
