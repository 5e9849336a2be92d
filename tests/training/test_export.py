"""Export: the graph, the tokenizer and the fingerprint, and what is refused."""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from semcache_core import training
from semcache_core._utils import lazy
from semcache_core.embedding.onnx import DEFAULT_ARTEFACT, OnnxEmbedder
from semcache_core.errors import TrainingError
from semcache_core.training import onnx_export
from semcache_core.training.onnx_export import check_graph, export_onnx
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as models
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

pytestmark = pytest.mark.slow

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS += ["how", "do", "i", "reset", "my", "pin", "card", "number", "please"]
TEXTS = ["how do i reset my pin", "card", "please reset my card number how do i do my pin please"]


def tiny_tokenizer(inputs: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(max_length=6)
    tokenizer.enable_padding(length=6)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=inputs,
        model_max_length=32,
    )


def tiny_transformer(directory: Path, distil: bool = False) -> models.Transformer:
    """A random transformer of one layer, through files as a real one comes."""
    torch.manual_seed(0)
    inputs = ["input_ids", "attention_mask"]
    if distil:
        config = DistilBertConfig(
            vocab_size=len(WORDS), dim=32, n_layers=1, n_heads=2, hidden_dim=64,
            max_position_embeddings=32,
        )  # fmt: skip
        DistilBertModel(config).save_pretrained(directory)
    else:
        inputs.append("token_type_ids")
        config = BertConfig(
            vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=64, max_position_embeddings=32,
        )  # fmt: skip
        BertModel(config).save_pretrained(directory)
    tiny_tokenizer(inputs).save_pretrained(directory)
    return models.Transformer(str(directory), max_seq_length=32)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> models.Transformer:
    return tiny_transformer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def model(transformer: models.Transformer) -> SentenceTransformer:
    return SentenceTransformer(modules=[transformer, models.Pooling(32)], device="cpu")


@dataclass(frozen=True)
class Export:
    directory: Path
    fingerprint: str
    still_training: bool


@pytest.fixture(scope="module")
def export_of_model(model: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """One export for many tests: it takes seconds. The model is in training before it."""
    out = tmp_path_factory.mktemp("out") / "new" / "artefact"
    model.train()
    fingerprint = export_onnx(model, out)
    still_training = model.training
    model.eval()
    return Export(out, fingerprint, still_training)


@pytest.fixture
def exported(export_of_model: Export) -> Path:
    return export_of_model.directory


def torch_rows(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    return np.stack([model.encode(text, normalize_embeddings=True) for text in texts])


def test_the_embedder_gives_what_the_model_gives(model, exported):
    rows = OnnxEmbedder.load(exported).embed(TEXTS[:2])
    # eight bits for 32 random weights in a row are coarse; real models are closer
    assert (rows * torch_rows(model, TEXTS[:2])).sum(axis=1).min() > 0.99


def test_rows_have_length_1_and_padding_does_not_matter(exported):
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    ids = np.array([[2, 4, 5, 3], [2, 9, 3, 0]], np.int64)
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], np.int64)
    rows = session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})[0]
    alone = session.run(["embedding"], {"input_ids": ids[1:, :3], "attention_mask": mask[1:, :3]})[
        0
    ]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[1] @ alone[0] > 0.995


def test_the_weights_are_int8_with_a_scale_per_output_channel(exported):
    weights = {w.name: w for w in onnx.load(str(exported / "model.onnx")).graph.initializer}
    matrices = [
        w for w in weights.values() if w.data_type == onnx.TensorProto.INT8 and len(w.dims) == 2
    ]
    # one layer: query, key, value, attention output, and the two around the activation
    assert len(matrices) == 6
    # with all 8 bits, sums overflow on x86 CPUs without VNNI
    assert max(int(np.abs(onnx.numpy_helper.to_array(w).astype(int)).max()) for w in matrices) <= 64
    scales = [tuple(w.dims) for name, w in weights.items() if name.endswith("_scale") and w.dims]
    assert scales.count((32,)) == 5
    assert scales.count((64,)) == 1


def test_tokenizer_json_neither_cuts_nor_pads_and_the_model_keeps_its_own(model, exported):
    tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    assert tokenizer.truncation is None
    assert tokenizer.padding is None
    assert len(tokenizer.encode(TEXTS[2]).ids) == 14
    assert model.tokenizer.backend_tokenizer.truncation is not None


def test_the_fingerprint_is_the_hash_of_both_files_and_there_are_no_others(export_of_model):
    directory = export_of_model.directory
    content = [(directory / name).read_bytes() for name in ("model.onnx", "tokenizer.json")]
    assert export_of_model.fingerprint == hashlib.sha256(b"".join(content)).hexdigest()
    assert len(list(directory.iterdir())) == 2
    assert list(directory.parent.iterdir()) == [directory]


def test_a_model_in_training_stays_in_training(export_of_model):
    assert export_of_model.still_training


def test_a_model_without_token_types_is_exported_too(tmp_path):
    distil = tiny_transformer(tmp_path / "distil", distil=True)
    model = SentenceTransformer(
        modules=[distil, models.Pooling(32), models.Normalize()], device="cpu"
    )
    export_onnx(model, tmp_path / "out")
    rows = OnnxEmbedder.load(tmp_path / "out").embed(TEXTS[:1])
    assert (rows * torch_rows(model, TEXTS[:1])).sum() > 0.99


@pytest.mark.parametrize("mode", ["cls", "max"])
def test_other_pooling_than_the_mean_is_refused(transformer, tmp_path, mode):
    model = SentenceTransformer(
        modules=[transformer, models.Pooling(32, pooling_mode=mode)], device="cpu"
    )
    with pytest.raises(TrainingError, match=f"pooling '{mode}'"):
        export_onnx(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_with_a_dense_layer_is_refused_naming_its_modules(transformer, tmp_path):
    model = SentenceTransformer(
        modules=[transformer, models.Pooling(32), models.Dense(32, 8)], device="cpu"
    )
    with pytest.raises(TrainingError, match="'Transformer', 'Pooling', 'Dense'"):
        export_onnx(model, tmp_path)


def test_a_model_that_prompts_every_text_is_refused(transformer, tmp_path):
    model = SentenceTransformer(
        modules=[transformer, models.Pooling(32)],
        prompts={"query": "query: "},
        default_prompt_name="query",
        device="cpu",
    )
    with pytest.raises(TrainingError, match="the prompt 'query'"):
        export_onnx(model, tmp_path)


def test_a_graph_that_ignores_the_mask_is_caught_and_nothing_is_replaced(
    model, tmp_path, monkeypatch
):
    def unmasked(self, input_ids, attention_mask):
        tokens = self.transformer(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=torch.zeros_like(input_ids),
        ).last_hidden_state
        return torch.nn.functional.normalize(tokens.mean(dim=1), dim=1)

    monkeypatch.setattr(onnx_export._EmbeddingGraph, "forward", unmasked)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (out / name).write_text("earlier")
    with pytest.raises(TrainingError, match="differs from the model by"):
        export_onnx(model, out)
    assert [(out / name).read_text() for name in ("model.onnx", "tokenizer.json")] == [
        "earlier",
        "earlier",
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def graph_file(
    tmp_path: Path,
    axes: tuple[object, ...] = ("batch", "tokens"),
    names: tuple[str, ...] = ("input_ids", "attention_mask", "embedding"),
    opset: int = 18,
    ir: int = 10,
) -> Path:
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT64, onnx.TensorProto.INT64)
    ids, mask, out = (
        onnx.helper.make_tensor_value_info(name, kind, list(axes))
        for name, kind in zip(names, kinds, strict=True)
    )
    node = onnx.helper.make_node("Mul", list(names[:2]), [names[2]])
    graph = onnx.helper.make_graph([node], "g", [ids, mask], [out])
    opsets = [onnx.helper.make_opsetid("", opset)]
    file = tmp_path / "graph.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir), str(file))
    return file


def test_a_graph_as_wanted_passes_the_check(tmp_path):
    check_graph(graph_file(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"axes": (1, "tokens")}, r"axes of input_ids are \[1, 'tokens'\]"),
        ({"axes": ("batch", 8)}, r"axes of input_ids are \['batch', 8\]"),
        ({"axes": ("batch",)}, "axes of input_ids"),
        ({"names": ("ids", "attention_mask", "embedding")}, "'ids'"),
        ({"names": ("input_ids", "attention_mask", "out")}, "'out'"),
        ({"opset": 22}, "opset 22"),
        ({"ir": 11}, "IR version 11"),
    ],
)
def test_a_graph_the_runtime_could_not_use_is_refused_with_what_was_seen(tmp_path, wrong, named):
    with pytest.raises(TrainingError, match=named):
        check_graph(graph_file(tmp_path, **wrong))


def test_a_missing_extra_is_an_error_with_the_command_that_installs_it(monkeypatch):
    found = lazy.find_spec
    monkeypatch.setattr(
        lazy, "find_spec", lambda name: None if name in ("torch", "sklearn") else found(name)
    )
    with pytest.raises(TrainingError, match="training needs torch, sklearn") as error:
        importlib.reload(training)
    assert 'pip install "semcache-core[train]"' in str(error.value)


def test_every_public_name_is_there():
    assert all(getattr(training, name) is not None for name in training.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        training.no_such_name  # noqa: B018


def test_a_model_tells_nothing_of_the_machine_it_was_made_on(exported):
    assert b"stack_trace" not in (exported / "model.onnx").read_bytes()
    data = (DEFAULT_ARTEFACT / "model.onnx").read_bytes()
    assert b"stack_trace" not in data
    assert b".py" not in data
