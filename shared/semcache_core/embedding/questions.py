"""Embeds what a question asks, in place of its full text."""

from dataclasses import dataclass

from semcache_core._utils.courtesy import core_of
from semcache_core.embedding.language import is_english
from semcache_core.embedding.spelling import corrected
from semcache_core.types import Embedder, Matrix


@dataclass(frozen=True)
class QuestionEmbedder:
    """An embedder that sees questions without the greeting, thanks and emoji around them, and
    without slips of typing where the model reads `english`. It reads nothing else then.

    The fingerprint stays that of the model: the vector of a full text is as valid as that of what
    it asks, so vectors that were stored by earlier versions are kept.
    """

    model: Embedder
    english: bool = True

    @property
    def fingerprint(self) -> str:
        return self.model.fingerprint

    @property
    def dimension(self) -> int:
        return self.model.dimension

    def embed(self, texts: list[str]) -> Matrix:
        cores = [core_of(text).text for text in texts]
        return self.model.embed(list(map(corrected, cores)) if self.english else cores)

    def reads(self, text: str, max_tokens: int) -> bool:
        return self.model.reads(core_of(text).text, max_tokens) and self.knows_language(text)

    def knows_language(self, text: str) -> bool:
        """Whether the text is in a language of the model's, as far as its languages are known."""
        return not self.english or is_english(text)
