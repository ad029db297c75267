"""Tiny models and tokenizers, built from configs: no network, no weights on disk beforehand."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = (
    "question answer title context what is the of a an in who where when how which capital river "
    "city country president king queen war year born died wrote book film song band album team "
    "player game language people mountain lake sea island north south east west red blue green "
    "black white old new big small first last one two three four five six seven eight nine ten "
    "paris london berlin madrid rome vienna oslo lima quito cairo france england germany spain "
    "italy austria norway peru ecuador egypt has was for and to from by with on at it its he she"
).split()
SENTINELS = [f"<extra_id_{number}>" for number in range(100)]


def reader_tokenizer() -> PreTrainedTokenizerFast:
    """Words and characters with T5's special tokens: pad 0, end 1, unknown 2."""
    pieces = ["<pad>", "</s>", "<unk>"]
    pieces += [f"▁{word}" for word in WORDS] + ["▁"] + list(string.printable[:94])
    scores = [(piece, 0.0 if piece.startswith("<") else -float(len(pieces))) for piece in pieces]
    scores = [(piece, -1.0 if piece.startswith("▁") else score) for piece, score in scores]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(SENTINELS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=SENTINELS,
        model_max_length=512,
    )


def retriever_tokenizer() -> PreTrainedTokenizerFast:
    """Lower-case words and characters with BERT's special tokens."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces += list(characters) + [f"##{character}" for character in characters]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


def tiny_t5(seed: int = 0, *, layers: int = 2, dropout: float = 0.0) -> T5ForConditionalGeneration:
    """A T5 of some 40,000 parameters with seeded weights."""
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(reader_tokenizer()),
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=layers,
        num_heads=2,
        dropout_rate=dropout,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config).eval()


def tiny_bert(seed: int = 0, *, dropout: float = 0.0) -> BertModel:
    """A BERT of some 30,000 parameters with seeded weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(retriever_tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    # As `load_retriever` has it on a CPU: other attention gives other last bits.
    config._attn_implementation = "eager"
    return BertModel(config, add_pooling_layer=False).eval()


def save_tiny_reader(folder: Path, seed: int = 0) -> Path:
    """A folder `--reader_model_type` takes."""
    tiny_t5(seed).save_pretrained(folder)
    reader_tokenizer().save_pretrained(folder)
    return folder


def save_tiny_retriever(folder: Path, seed: int = 0) -> Path:
    """A folder `--retriever_model_path` takes."""
    tiny_bert(seed).save_pretrained(folder)
    retriever_tokenizer().save_pretrained(folder)
    return folder
