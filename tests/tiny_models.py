"""A random BERT over a vocabulary of made-up words, and pairs it can learn to tell apart."""

import random
from pathlib import Path

import torch
from semcache_core.training.data.records import Pair
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as models
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import BertProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

KEYS = [f"key{i}" for i in range(12)]
FILLERS = [f"filler{i}" for i in range(24)]
OTHERS = [f"other{i}" for i in range(24)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *KEYS, *FILLERS, *OTHERS]


def word_model(directory: Path, spread: float = 0.1) -> SentenceTransformer:
    """A random BERT of two layers and width 32, through files as a real one comes.

    `spread` is the standard deviation of its weights: the larger, the less alike are all texts.
    """
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=32,
        model_input_names=["input_ids", "attention_mask", "token_type_ids"],
    ).save_pretrained(directory)  # fmt: skip
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, initializer_range=spread,
        hidden_dropout_prob=0.02, attention_probs_dropout_prob=0.02,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(directory)
    transformer = models.Transformer(str(directory), max_seq_length=32)
    made = SentenceTransformer(
        modules=[transformer, models.Pooling(32), models.Normalize()], device="cpu"
    )
    return made.eval()


def toy_pairs(count: int, seed: int) -> list[Pair]:
    """Questions of three fillers and a key, one word changed: a filler keeps the answer, the key
    does not. Both are as alike in wording, so an untuned model cannot tell them apart.
    """
    chance = random.Random(seed)
    pairs = []
    for index in range(count):
        key, other_key = chance.sample(KEYS, 2)
        *kept, old, new = chance.sample(FILLERS, 4)
        same = index % 2
        words = [*kept, old, key], [*kept, *((new, key) if same else (old, other_key))]
        order = chance.sample(range(4), 4)
        pairs.append(Pair(*(" ".join(text[i] for i in order) for text in words), same))
    return pairs
