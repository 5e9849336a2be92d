"""From a sentence-transformers model to the int8 ONNX file and tokenizer of an artefact."""

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import SentenceTransformer

from semcache_core.embedding.onnx import MODEL_FILE, TOKENIZER_FILE, fingerprint_files
from semcache_core.errors import TrainingError

OPSET = 18
OUTPUT = "embedding"
# The newest opset and file version that onnxruntime 1.18, the oldest one supported, can read.
_NEWEST_OPSET = 21
_NEWEST_IR = 10
_TOLERANCE = 1e-4
_SHAPES = ((1, 3), (1, 17), (2, 8), (3, 33), (5, 5), (1, 96))


def export_onnx(model: SentenceTransformer, out: Path) -> str:
    """Write `model.onnx` and `tokenizer.json` into `out` and return the model's fingerprint.

    The graph takes `input_ids` and `attention_mask` (int64 [batch, tokens], both axes dynamic) and
    gives `embedding` (float32 [batch, dimension]): the mean over the unmasked tokens, scaled to
    length 1. Weights are int8, activations are quantised as they come; before that the float32
    graph must agree with `model` to 1e-4. The fingerprint is the SHA-256 (hex) of both files.

    Raises TrainingError for a model other than transformer, mean pooling and (at most)
    normalisation, and for a wrong graph; files already in `out` then stay as they were.
    """
    graph = _EmbeddingGraph(*transformer_of(model))
    tokenizer = _tokenizer_of(model)
    was_training = model.training
    out.mkdir(parents=True, exist_ok=True)
    try:
        model.eval()
        # beside the target, so that moving into place is a rename on one file system
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as name:
            directory = Path(name)
            float_file = directory / "float32.onnx"
            _write_float32(graph, float_file)
            check_graph(float_file)
            _check_against_torch(model, float_file)
            _quantise(float_file, directory / MODEL_FILE)
            _strip(directory / MODEL_FILE)
            check_graph(directory / MODEL_FILE)
            tokenizer.save(str(directory / TOKENIZER_FILE))
            for file_name in (MODEL_FILE, TOKENIZER_FILE):
                (directory / file_name).replace(out / file_name)
    finally:
        model.train(was_training)
    return fingerprint_files(out)


def check_graph(file: Path) -> None:
    """Raise TrainingError unless the ONNX file has the inputs, output, axes and opset wanted."""
    model = onnx.load(str(file))
    for value, wanted in (
        (model.graph.input, {"input_ids", "attention_mask"}),
        (model.graph.output, {OUTPUT}),
    ):
        found = {item.name for item in value}
        if found != wanted:
            raise TrainingError(f"{file.name} has {sorted(found)} where {sorted(wanted)} belong")
    for item in model.graph.input:
        axes = [axis.dim_param or axis.dim_value for axis in item.type.tensor_type.shape.dim]
        if len(axes) != 2 or not all(isinstance(axis, str) for axis in axes):
            raise TrainingError(f"{file.name}: the axes of {item.name} are {axes}, not dynamic")
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > _NEWEST_OPSET or model.ir_version > _NEWEST_IR:
        raise TrainingError(
            f"{file.name} has opset {opset} and IR version {model.ir_version}; the oldest "
            f"onnxruntime supported reads up to {_NEWEST_OPSET} and {_NEWEST_IR}"
        )


class _EmbeddingGraph(torch.nn.Module):
    """Transformer, masked mean and normalisation in one module, with plain tensors in and out.

    From ids and mask [batch, tokens] to unit rows, float32 [batch, dimension].
    """

    def __init__(self, transformer: torch.nn.Module, wants_token_types: bool) -> None:
        super().__init__()
        self.transformer = transformer
        self.wants_token_types = wants_token_types

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        extra = {"token_type_ids": torch.zeros_like(input_ids)} if self.wants_token_types else {}
        tokens = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **extra
        ).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, p=2.0, dim=1)


def transformer_of(model: SentenceTransformer) -> tuple[torch.nn.Module, bool]:
    """The Hugging Face module inside `model`, and whether it wants token types."""
    modules = list(model)
    kinds = [type(module).__name__ for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise TrainingError(
            f"cannot export a model made of {kinds}; what can be exported is Transformer, "
            "Pooling (mean) and, if there is one, Normalize"
        )
    mode = _pooling_mode(modules[1])
    if mode != "mean":
        raise TrainingError(f"cannot export pooling {mode!r}; only 'mean' is supported")
    if model.default_prompt_name is not None:
        raise TrainingError(
            f"the model puts the prompt {model.default_prompt_name!r} before every text, which the "
            "runtime would not do; set default_prompt_name=None and calibrate it like that"
        )
    first: Any = modules[0]
    return first.auto_model, "token_type_ids" in model.tokenizer.model_input_names


def _pooling_mode(pooling: Any) -> str:
    # sentence-transformers before 6 has a method where it now has an attribute
    if hasattr(pooling, "get_pooling_mode_str"):
        return str(pooling.get_pooling_mode_str())
    mode = pooling.pooling_mode
    return mode if isinstance(mode, str) else "+".join(mode)


def _tokenizer_of(model: SentenceTransformer) -> Any:
    """A copy of the model's `tokenizers.Tokenizer` that neither cuts nor pads."""
    from tokenizers import Tokenizer

    fast = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(fast, Tokenizer):
        raise TrainingError(
            f"the tokenizer is a {type(model.tokenizer).__name__}, which cannot be written as "
            "tokenizer.json; load the model with its fast tokenizer"
        )
    copy = Tokenizer.from_str(fast.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _write_float32(graph: _EmbeddingGraph, file: Path) -> None:
    device = next(graph.parameters()).device
    ids = torch.ones((2, 8), dtype=torch.int64, device=device)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # with a mask of ones alone the exporter might drop the masking
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    axes = {0: batch, 1: tokens}
    # the exporter reports progress on stdout, and warns of its deprecations and of no torchvision
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            graph.eval(),
            (ids, mask),
            input_names=["input_ids", "attention_mask"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
        )
    # BERT's table look-ups are called "embedding" too, and the exporter lets names collide
    for index, node in enumerate(program.model.graph):
        for value in node.outputs:
            if value.name == OUTPUT:
                value.name = f"{OUTPUT}_inner_{index}"
    program.model.graph.outputs[0].name = OUTPUT
    program.save(str(file), external_data=False)


@contextmanager
def _quiet(logger_name: str) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_against_torch(model: SentenceTransformer, file: Path) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    words = len(model.tokenizer)
    reach = model.max_seq_length or max(tokens for _, tokens in _SHAPES)
    for batch, tokens in _SHAPES:
        tokens = min(tokens, reach)
        ids = random.integers(0, words, size=(batch, tokens), dtype=np.int64)
        lengths = np.append(tokens, random.integers(1, tokens + 1, size=batch - 1))
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        got = session.run([OUTPUT], {"input_ids": ids, "attention_mask": mask})[0]
        wanted = _torch_embeddings(model, ids, mask)
        gap = float(np.abs(got - wanted).max()) if got.shape == wanted.shape else float("nan")
        if not gap <= _TOLERANCE:  # written so that NaN fails too
            raise TrainingError(
                f"the exported graph differs from the model by {gap:.2g} (allowed "
                f"{_TOLERANCE:.0e}) at batch {batch} of {tokens} tokens, shapes "
                f"{list(got.shape)} and {list(wanted.shape)}"
            )


def _torch_embeddings(model: SentenceTransformer, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    features = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if "token_type_ids" in model.tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    with torch.no_grad():
        on_device = {name: tensor.to(model.device) for name, tensor in features.items()}
        rows = model(on_device)["sentence_embedding"].float()
    unit: np.ndarray = torch.nn.functional.normalize(rows, dim=1).cpu().numpy()
    return unit


def _strip(file: Path) -> None:
    """Drop the exporter's notes: they hold stack traces with the paths of this machine."""
    model = onnx.load(str(file))
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, str(file))


def _quantise(source: Path, target: Path) -> None:
    quantize_dynamic(
        str(source),
        str(target),
        # on QQP a single scale per matrix costs six times the AUC
        per_channel=True,
        weight_type=QuantType.QInt8,
        # 7 of the 8 bits: on x86 without VNNI sums of two products overflow otherwise
        reduce_range=True,
    )
