"""Embedders: the contract for each of them, and the coalescer."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contracts import EmbedderContract, ReadsOnlyWholeTexts, RefusesBadVectors
from fakes import WordEmbedder
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from semcache_core import SemcacheError, as_embedder
from semcache_core.embedding.batching import Batcher, VectorCache, checked_unit_rows
from semcache_core.embedding.onnx import (
    DEFAULT_ARTEFACT,
    MODEL_FILE,
    TOKENIZER_FILE,
    OnnxEmbedder,
    fingerprint_files,
)
from semcache_core.embedding.questions import QuestionEmbedder
from semcache_core.embedding.wrappers import CustomEmbedder, SentenceTransformerEmbedder


class TestWordEmbedder(EmbedderContract):
    @pytest.fixture
    def embedder(self) -> WordEmbedder:
        return WordEmbedder()


class Fixed(Embeddings):
    """LangChain embeddings that answer every query with the same vector."""

    def __init__(self, vector: Any) -> None:
        self.vector = vector

    def embed_query(self, text: str) -> Any:
        return self.vector

    def embed_documents(self, texts: list[str]) -> Any:
        raise AssertionError("the document side is not for questions")


class QueryOnly:
    """Like llama_index's BaseEmbedding: the query side has another name."""

    model_name = "mock"

    def get_query_embedding(self, query: str) -> list[float]:
        return [float(v) for v in WordEmbedder().embed([query])[0] * 3]

    def get_text_embedding(self, text: str) -> list[float]:
        raise AssertionError("the document side is not for questions")


class TestLangChainEmbeddings(EmbedderContract, ReadsOnlyWholeTexts, RefusesBadVectors):
    @pytest.fixture
    def embedder(self) -> CustomEmbedder:
        return CustomEmbedder(DeterministicFakeEmbedding(size=32))

    def wrap(self, rows: Any) -> Any:
        return CustomEmbedder(Fixed(rows[0]))


class TestLlamaIndexEmbeddings(EmbedderContract, ReadsOnlyWholeTexts):
    @pytest.fixture
    def embedder(self) -> CustomEmbedder:
        return CustomEmbedder(QueryOnly())


def _write_tiny_bert(folder: Path) -> str:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [
        "how",
        "do",
        "i",
        "reset",
        "my",
        "password",
        "?",
        "where",
        "is",
        "basel",
        "a",
        "word",
        "donde",
        "esta",
        "mi",
        "tarjeta",
        "¿",
    ]
    characters = [c for i in range(33, 0x250) if (c := chr(i)).isprintable()]
    plain = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys((*words, *characters))]
    vocabulary = [*plain, *(f"##{c}" for c in characters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    import torch

    torch.manual_seed(7)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32)]).save(str(folder / "model"))
    return str(folder / "model")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _write_tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def on_torch(tiny_bert: str) -> SentenceTransformerEmbedder:
    embedder = as_embedder(tiny_bert)
    assert isinstance(embedder, SentenceTransformerEmbedder)
    return embedder


class TestSentenceTransformers(EmbedderContract, ReadsOnlyWholeTexts):
    @pytest.fixture
    def embedder(self, on_torch: SentenceTransformerEmbedder) -> SentenceTransformerEmbedder:
        return on_torch

    def test_does_not_read_what_it_has_no_token_for(
        self, embedder: SentenceTransformerEmbedder
    ) -> None:
        assert not embedder.reads("what is \u4eca", self.max_tokens)

    def test_does_not_read_beyond_the_models_own_reach(
        self, embedder: SentenceTransformerEmbedder
    ) -> None:
        assert embedder.reads("word " * 62, 1000)
        assert not embedder.reads("word " * 63, 1000)

    def test_the_same_weights_have_the_same_fingerprint_and_changed_ones_another(
        self, embedder: SentenceTransformerEmbedder, tiny_bert: str
    ) -> None:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(tiny_bert)
        assert SentenceTransformerEmbedder(model).fingerprint == embedder.fingerprint
        next(model.parameters()).data[0, 0] += 1e-3
        assert SentenceTransformerEmbedder(model).fingerprint != embedder.fingerprint

    def test_a_model_that_is_not_there_is_refused_by_name(self, tmp_path: Path) -> None:
        name = str(tmp_path / "nothing-here")
        with pytest.raises(SemcacheError, match="nothing-here"):
            as_embedder(name)


class TestOnnx(EmbedderContract, ReadsOnlyWholeTexts):
    @pytest.fixture(scope="class")
    @classmethod
    def embedder(cls) -> OnnxEmbedder:
        return OnnxEmbedder.load(DEFAULT_ARTEFACT)

    def test_does_not_read_what_it_has_no_token_for(self, embedder: OnnxEmbedder) -> None:
        assert not embedder.reads("what is \U0001f9ff", self.max_tokens)

    def test_paraphrases_are_nearer_than_other_questions(self, embedder: OnnxEmbedder) -> None:
        asked, same, other = embedder.embed(
            ["how do I reset my password", "how can I reset my password", "where is Basel"]
        )
        assert asked @ same > 0.8 > asked @ other

    def test_counts_the_special_tokens_too(self, embedder: OnnxEmbedder) -> None:
        assert embedder.count_tokens("") == 2

    def test_no_text_gives_no_row(self, embedder: OnnxEmbedder) -> None:
        assert embedder.embed([]).shape == (0, embedder.dimension)

    def test_each_text_is_read_and_embedded_as_itself(self, embedder: OnnxEmbedder) -> None:
        short, long, unreadable = "how are you", "how are you " * 30, "\ud800"
        alone = {t: OnnxEmbedder.load(DEFAULT_ARTEFACT).embed([t])[0] for t in (short, long)}
        assert embedder.reads(short, 10)
        assert not embedder.reads(long, 10)
        np.testing.assert_array_equal(embedder.embed([short])[0], alone[short])
        assert not embedder.reads(unreadable, 10)
        np.testing.assert_array_equal(embedder.embed([long])[0], alone[long])

    def test_threads_share_one_session(self) -> None:
        fresh = OnnxEmbedder(DEFAULT_ARTEFACT)
        with ThreadPoolExecutor(8) as threads:
            rows = list(threads.map(lambda _: fresh.embed(["where is Basel"]), range(16)))
        assert all(np.array_equal(rows[0], row) for row in rows)


class TestQuestions(EmbedderContract, ReadsOnlyWholeTexts):
    @pytest.fixture(scope="class")
    @classmethod
    def embedder(cls) -> QuestionEmbedder:
        return QuestionEmbedder(OnnxEmbedder.load(DEFAULT_ARTEFACT))

    def test_courtesy_around_a_question_does_not_move_its_vector(
        self, embedder: QuestionEmbedder
    ) -> None:
        text = "Hi, where is my parcel? Thanks \U0001f60a"
        plain, decorated = embedder.embed(["where is my parcel?", text])
        np.testing.assert_array_equal(plain, decorated)
        assert embedder.reads(text, 8)
        assert not embedder.model.reads(text, 100)

    def test_has_the_fingerprint_of_its_model(self, embedder: QuestionEmbedder) -> None:
        assert embedder.fingerprint == embedder.model.fingerprint


@pytest.mark.parametrize("missing", [MODEL_FILE, TOKENIZER_FILE])
def test_an_artefact_without_one_of_its_files_is_refused_by_name(
    missing: str, tmp_path: Path
) -> None:
    for name in (MODEL_FILE, TOKENIZER_FILE):
        if name != missing:
            (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SemcacheError) as raised:
        OnnxEmbedder(tmp_path)
    assert str(tmp_path / missing) in str(raised.value)
    assert "calibration.json" in str(raised.value)


def test_files_that_are_no_model_are_refused_by_directory(tmp_path: Path) -> None:
    for name in (MODEL_FILE, TOKENIZER_FILE):
        (tmp_path / name).write_bytes(b"not a model")
    with pytest.raises(SemcacheError, match=f"{tmp_path} holds no usable model"):
        OnnxEmbedder(tmp_path).embed(["text"])


def test_the_fingerprint_of_files_depends_on_both(tmp_path: Path) -> None:
    seen = set()
    # of different lengths: files this small are rewritten within a tick of the filesystem's clock
    for model, tokenizer in ((b"a", b"b"), (b"a", b"cc"), (b"dd", b"b")):
        (tmp_path / MODEL_FILE).write_bytes(model)
        (tmp_path / TOKENIZER_FILE).write_bytes(tokenizer)
        seen.add(fingerprint_files(tmp_path))
    assert len(seen) == 3


def test_custom_embeddings_of_another_model_name_have_another_fingerprint() -> None:
    one, other = QueryOnly(), QueryOnly()
    other.model_name = "another"
    assert CustomEmbedder(one).fingerprint == CustomEmbedder(QueryOnly()).fingerprint
    assert CustomEmbedder(one).fingerprint != CustomEmbedder(other).fingerprint


def test_a_custom_model_that_fails_is_an_embedder_error_with_the_cause() -> None:
    class Down(Fixed):
        def embed_query(self, text: str) -> Any:
            raise ConnectionError("no route to host")

    with pytest.raises(SemcacheError, match="no route to host"):
        CustomEmbedder(Down(None))


@pytest.mark.parametrize("model", [None, 5, object(), ["model"]])
def test_what_is_no_embedder_is_refused_with_its_value(model: Any) -> None:
    with pytest.raises(SemcacheError) as raised:
        as_embedder(model)
    assert repr(model) in str(raised.value)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([[1.0, 2.0], [3.0]], "matrix"),
        ([[1.0, 2.0]], r"\[1, 2\], expected \[2, 2\]"),
        ([[1.0] * 3] * 2, r"\[2, 3\], expected \[2, 2\]"),
        ([1.0, 2.0], r"\[2\]"),
        ([[1.0, 0.0], [float("nan"), 0.0]], "nan for text 1 of 2"),
        ([[0.0, 0.0], [1.0, 0.0]], "0.0 for text 0 of 2"),
        (None, "expected"),
        ("text", "matrix"),
    ],
)
def test_rows_that_are_no_unit_vectors_are_refused_with_what_was_seen(
    rows: Any, named: str
) -> None:
    with pytest.raises(SemcacheError, match=named):
        checked_unit_rows(rows, 2, 2)


def test_rows_are_scaled_to_length_one() -> None:
    assert np.allclose(checked_unit_rows([[3, 4]], 1, 2), [[0.6, 0.8]])


class TestRecentVectors:
    def test_the_same_text_is_embedded_once(self) -> None:
        embedder, recent = WordEmbedder(), VectorCache()
        first, second = (recent.embed(embedder, "where is Basel", "a") for _ in range(2))
        assert np.array_equal(first, second)
        assert embedder.calls == ["where is Basel"]

    def test_only_the_last_few_are_kept(self) -> None:
        embedder, recent = WordEmbedder(), VectorCache(size=2)
        for text in ("a", "b", "c", "c", "b", "a"):
            recent.embed(embedder, text, "a")
        assert embedder.calls == ["a", "b", "c", "a"]

    def test_an_error_of_the_embedder_is_an_embedder_error_and_not_kept(self) -> None:
        class Failing(WordEmbedder):
            broken = True

            def embed(self, texts: list[str]) -> np.ndarray:
                if self.broken:
                    raise OSError("disk gone")
                return super().embed(texts)

        embedder, recent = Failing(), VectorCache()
        with pytest.raises(SemcacheError, match="disk gone"):
            recent.embed(embedder, "a", "a")
        embedder.broken = False
        assert recent.embed(embedder, "a", "a").shape == (64,)


class Gated:
    """An encoder whose first batch waits until the test opens it."""

    def __init__(self, fail: Callable[[str], bool] = lambda text: False) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Event()
        self.open = threading.Event()
        self.fail = fail
        self.error: type[BaseException] = ValueError

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        self.entered.set()
        assert self.open.wait(30)
        for text in texts:
            if self.fail(text):
                raise self.error(text)
        return np.array([[float(text)] for text in texts], np.float32)


def _until_waiting(coalescer: Batcher, n: int) -> None:
    while len(coalescer._waiting) < n:
        threading.Event().wait(0.001)


class TestCoalescer:
    def test_a_lone_call_is_run_at_once(self) -> None:
        encode = Gated()
        encode.open.set()
        assert Batcher(encode)(["1", "2"]).tolist() == [[1], [2]]
        assert encode.batches == [["1", "2"]]

    def run(self, encode: Gated, n: int, max_batch: int = 64) -> list[Any]:
        """One call, and `n` more while its batch is held; their values or errors in order."""
        coalescer = Batcher(encode, max_batch)

        def call(i: int) -> Any:
            try:
                return coalescer([str(i)]).tolist()
            except BaseException as error:
                return error

        with ThreadPoolExecutor(n + 1) as threads:
            first = threads.submit(call, 0)
            assert encode.entered.wait(30)
            rest = []
            for i in range(1, n + 1):
                rest.append(threads.submit(call, i))
                _until_waiting(coalescer, i)
            encode.open.set()
            return [f.result(30) for f in (first, *rest)]

    def test_calls_that_arrive_during_a_batch_are_joined_into_the_next(self) -> None:
        encode = Gated()
        assert self.run(encode, 5) == [[[i]] for i in range(6)]
        assert encode.batches == [["0"], ["1", "2", "3", "4", "5"]]

    def test_more_calls_than_a_batch_holds_are_split(self) -> None:
        encode = Gated()
        assert self.run(encode, 8, max_batch=3) == [[[i]] for i in range(9)]
        assert [len(batch) for batch in encode.batches] == [1, 3, 3, 2]

    def test_a_failing_text_does_not_fail_its_neighbours(self) -> None:
        found = self.run(Gated(fail=lambda text: text == "2"), 4)
        assert isinstance(found[2], ValueError) and str(found[2]) == "2"
        assert [found[i] for i in (0, 1, 3, 4)] == [[[i]] for i in (0, 1, 3, 4)]

    def test_an_interrupt_of_one_caller_leaves_the_others_their_answers(self) -> None:
        interrupts = iter([True])
        encode = Gated(fail=lambda text: text == "1" and next(interrupts, False))
        encode.error = KeyboardInterrupt
        found = self.run(encode, 4)
        interrupted = [i for i, value in enumerate(found) if isinstance(value, BaseException)]
        assert len(interrupted) == 1
        assert [v for v in found if isinstance(v, list)] == [
            [[i]] for i in range(5) if i not in interrupted
        ]
