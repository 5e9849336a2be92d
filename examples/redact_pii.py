"""An app that keeps nothing personal: such an answer is stored redacted, such a question never.

Run it with `python examples/redact_pii.py`; put your own model in for the stand-in. It needs
datafog, which finds what has a pattern and downloads nothing.
"""

import re
from collections.abc import Callable

from datafog import sanitize
from semcache_core import Request, SemanticCache

PATTERNS = ["EMAIL", "PHONE", "CREDIT_CARD", "SSN"]  # names and addresses of people have none
CUSTOMER = re.compile(r"\bC-\d{4,}\b")  # your own ids: nobody else knows them


def redact(text: str) -> str:
    return CUSTOMER.sub("[CUSTOMER]", sanitize(text, entity_types=PATTERNS))


def admit(request: Request, response: str) -> bool:
    return not response.startswith("Sorry")  # an apology is no answer to give again


def main(model: Callable[[str], str]) -> None:
    with SemanticCache(path=None, admit=admit, redact=redact) as cache:

        def serve(question: str) -> None:
            before = cache.stats().lookups - cache.stats().misses
            answer = cache.get_or_create(Request(question), lambda: model(question))
            hit = cache.stats().lookups - cache.stats().misses > before
            print(f"{question}\n   {answer}   [{'the cache' if hit else 'the model'}]")

        serve("How do I close my account?")
        serve("How can I close my account?")  # the answer that was stored, without the address
        serve("How do I close the account C-20317?")
        serve("How do I close the account C-20317?")  # asked again: nothing was stored
        serve("What are your opening hours?")
        serve("What are your opening hours?")  # not admitted: asked again


def stand_in(question: str) -> str:
    """Stands in for your model."""
    if "hours" in question:
        return "Sorry, I cannot say."
    return "Write to help@shop.example and ask us to close it."


if __name__ == "__main__":
    main(stand_in)
