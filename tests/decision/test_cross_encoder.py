"""A cross-encoder as verifier, with tiny models of random weights."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts import VerifierContract
from semcache_core import SemcacheError
from semcache_core.decision.cross_encoder import CrossEncoderVerifier
from semcache_core.decision.verifier import Verification
from sentence_transformers import CrossEncoder
from tiny_models import word_model

ONE, OTHER = "filler1 filler2 key1", "filler1 key2 filler3 filler4"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    word_model(directory, spread=0.5)
    return directory


def encoder(bert: Path, num_labels: int = 1, **options: Any) -> CrossEncoder:
    torch.manual_seed(0)  # for the weights of the head
    return CrossEncoder(str(bert), num_labels=num_labels, device="cpu", **options)


def logit(model: CrossEncoder, one: str, other: str) -> torch.Tensor:
    return torch.tensor(model.predict([(one, other)], activation_fn=torch.nn.Identity())[0])


class TestContract(VerifierContract):
    asked, stored = ONE, OTHER

    @pytest.fixture
    def verifier(self, bert: Path) -> CrossEncoderVerifier:
        return CrossEncoderVerifier(encoder(bert))


def test_the_probability_is_the_mean_of_both_orders(bert: Path) -> None:
    model = encoder(bert)
    there, back = (torch.sigmoid(logit(model, *q)).item() for q in ((ONE, OTHER), (OTHER, ONE)))
    assert there != pytest.approx(back, abs=1e-4)
    verifier = CrossEncoderVerifier(model)
    assert verifier.verify(ONE, OTHER, "") == pytest.approx((there + back) / 2, abs=1e-5)
    assert verifier.verify(OTHER, ONE, "") == pytest.approx((there + back) / 2, abs=1e-5)


def test_the_answer_is_not_looked_at(bert: Path) -> None:
    verifier = CrossEncoderVerifier(encoder(bert))
    assert verifier.verify(ONE, OTHER, "key1 " * 500) == verifier.verify(ONE, OTHER, "")


def test_a_model_that_leaves_its_score_as_it_is_gives_a_logit(bert: Path) -> None:
    bare = encoder(bert, activation_fn=torch.nn.Identity())
    assert CrossEncoderVerifier(bare).verify(ONE, OTHER, "") == pytest.approx(
        CrossEncoderVerifier(encoder(bert)).verify(ONE, OTHER, ""), abs=1e-5
    )


class Tokens:
    model_max_length = 512

    def __call__(self, one: str, other: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": []}


class Scores:
    """Stands in for a model of the older releases, with a score that the test chooses."""

    tokenizer = Tokens()

    def __init__(self, score: float, activation: type[torch.nn.Module]) -> None:
        self.score = score
        self.default_activation_function = activation()

    def predict(self, pairs: list[Any], **_: Any) -> Any:
        return torch.full((len(pairs),), self.score).numpy()


@pytest.mark.parametrize(
    ("score", "activation", "probability"),
    [
        (0.0, torch.nn.Identity, 0.5),
        (1000.0, torch.nn.Identity, 1.0),
        (-1000.0, torch.nn.Identity, 0.0),
        (0.25, torch.nn.Sigmoid, 0.25),
    ],
)
def test_a_score_becomes_a_probability(
    score: float, activation: type[torch.nn.Module], probability: float
) -> None:
    model: Any = Scores(score, activation)
    verifier = CrossEncoderVerifier(model)
    assert verifier.verify("a", "b", "") == probability


@pytest.mark.parametrize("as_what", [str, Path])
def test_a_model_is_opened_by_its_directory(bert: Path, tmp_path: Path, as_what: Any) -> None:
    model = encoder(bert)
    model.save_pretrained(str(tmp_path / "model"))
    opened = CrossEncoderVerifier(as_what(tmp_path / "model"))
    verifier = CrossEncoderVerifier(model)
    assert opened.verify(ONE, OTHER, "") == pytest.approx(verifier.verify(ONE, OTHER, ""), abs=1e-5)


def test_a_model_of_several_labels_is_refused(bert: Path) -> None:
    with pytest.raises(SemcacheError, match=r"shape \[3\] for a pair.* num_labels=1"):
        CrossEncoderVerifier(encoder(bert, num_labels=3))


@pytest.mark.parametrize("model", [None, 3, lambda pair: 1.0])
def test_what_is_no_cross_encoder_is_refused(model: Any) -> None:
    with pytest.raises(SemcacheError, match=r"model cannot be .* name or directory"):
        CrossEncoderVerifier(model)


def test_an_embedder_is_no_cross_encoder(tmp_path: Path) -> None:
    with pytest.raises(SemcacheError, match="model cannot be SentenceTransformer"):
        CrossEncoderVerifier(word_model(tmp_path))


def test_questions_beyond_the_reach_of_the_model_are_refused_not_cut_off(bert: Path) -> None:
    verifier = CrossEncoderVerifier(encoder(bert))
    # 29 words and the three special tokens are the 32 that the model reads
    assert 0 <= verifier.verify("key1 " * 14, "key1 " * 15, "") <= 1
    with pytest.raises(SemcacheError, match="have 33 tokens, the cross-encoder reads 32"):
        verifier.verify("key1 " * 15, "key1 " * 15, "")


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SemcacheError, match=f"cannot load '{tmp_path}'"):
        CrossEncoderVerifier(tmp_path)


def test_without_sentence_transformers_the_pip_command_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(SemcacheError, match=r'pip install "semcache-core\[train\]"'):
        CrossEncoderVerifier("some/model")


def test_it_serves_as_a_second_opinion(bert: Path) -> None:
    verifier = CrossEncoderVerifier(encoder(bert))
    probability = verifier.verify(ONE, OTHER, "")
    at, above = (Verification(verifier, accept=a) for a in (probability - 0.01, probability + 0.01))
    assert at.agrees(ONE, OTHER, "") is True
    assert above.agrees(ONE, OTHER, "") is False
