"""A verifier on a sentence-transformers cross-encoder, which reads both questions at once."""

import math
import os
import threading
from typing import TYPE_CHECKING, Any

from semcache_core.errors import SemcacheError

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class CrossEncoderVerifier:
    """P(same answer) of two questions by a sentence-transformers cross-encoder of one label.

    `model` is the name of one (taken from the hub's local cache, else downloaded), a directory, or
    a `CrossEncoder`. It has to be trained on pairs of questions that have the same answer or not;
    one for search, which scores passages, finds any two questions on one subject alike. The answer
    itself is not looked at.

    Raises SemcacheError when sentence-transformers is missing, there is no such model, or it gives
    more than one score for a pair. Needs the extra `train`.
    """

    def __init__(self, model: "str | os.PathLike[str] | CrossEncoder") -> None:
        self._model: Any = _open(model) if isinstance(model, str | os.PathLike) else model
        if not hasattr(self._model, "predict") or not hasattr(self._model, "tokenizer"):
            raise SemcacheError(
                f"model cannot be {model!r}; give the name or directory of a cross-encoder, or a "
                "sentence_transformers.CrossEncoder"
            )
        # all threads share its tokenizer, whose truncation is set anew for each call
        self._turn = threading.Lock()
        shape = self._scores("one", "other").shape
        if shape != (2,):
            raise SemcacheError(
                f"the cross-encoder gives scores of shape {list(shape[1:])} for a pair, not one "
                "number; use a model with num_labels=1"
            )

    def verify(self, asked: str, stored: str, response: str) -> float:
        """The mean probability over both orders, as training showed each pair in one of them.

        Raises SemcacheError for questions that are longer than the model reads.
        """
        one, other = (text.encode("utf-8", "replace").decode() for text in (asked, stored))
        scores = self._scores(one, other)
        return sum(self._probability(float(score)) for score in scores) / 2

    def _scores(self, one: str, other: str) -> Any:
        with self._turn:
            self._check_length(one, other)
            return self._model.predict([(one, other), (other, one)], show_progress_bar=False)

    def _check_length(self, one: str, other: str) -> None:
        tokenizer = self._model.tokenizer
        # the first is sentence-transformers' newer name
        reach = getattr(self._model, "max_seq_length", None) or tokenizer.model_max_length
        tokens = len(tokenizer(one, other, truncation=False, verbose=False)["input_ids"])
        if tokens > reach:
            raise SemcacheError(
                f"the two questions have {tokens} tokens, the cross-encoder reads {reach}; "
                "use a model of longer reach, or leave such questions to the embedder"
            )

    def _probability(self, score: float) -> float:
        """The score as a probability. With activation Identity it is a logit."""
        activation = getattr(self._model, "activation_fn", None)
        if type(activation or self._model.default_activation_function).__name__ != "Identity":
            return score
        return 1 / (1 + math.exp(-score)) if score > -700 else 0.0


def _open(name: "str | os.PathLike[str]") -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise SemcacheError(
            f"the cross-encoder {os.fspath(name)!r} needs sentence-transformers; "
            'run: pip install "semcache-core[train]"'
        ) from None
    try:
        return CrossEncoder(os.fspath(name))
    except (OSError, ValueError) as error:
        raise SemcacheError(
            f"sentence-transformers cannot load {os.fspath(name)!r}: {error}"
        ) from None
