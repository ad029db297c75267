"""The demo's T5 before any training: its tokenizer, its shape, and initial weights that copy.

Initial weights are seeded and hold nothing of the text. They start attention where copying needs
it, in the manner of "Mimetic Initialization of Self-Attention Layers" (arXiv:2305.09828): with the
usual random start, a model this small takes thousands of steps to find the same arrangement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import UnigramTrainer
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

SENTINELS = 100
MAX_TOKENS = 512
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(SENTINELS)))
"""Ids 0, 1, 2 as in T5, then the sentinels."""

POSITION_BIAS = 6.0
"""Added to the attention scores of a head that looks at one neighbour."""
MATCH_SCALE = 0.25
"""Scores of heads that look for equal tokens: about 8 for equal ones, 0 +- 1.4 for others."""
QUIET = 0.02
"""What is left of the queries of heads that go by position."""

PREVIOUS, SECOND_PREVIOUS, NEXT = 1, 2, 17
"""T5's buckets of relative positions, of 32, for keys before and after the query."""


def build_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a lower-casing Unigram tokenizer with single digits and T5's special tokens.

    Lower case makes a word of a question the same token as in a label; line breaks, which part
    the facts of a passage, become a bar.

    Args:
        texts: what to train on.
        vocabulary: tokens, special ones included.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s*\n\s*"), " | "),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = UnigramTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        unk_token="<unk>",
        max_piece_length=12,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        model_max_length=MAX_TOKENS,
    )


def reader_config(vocabulary: int) -> T5Config:
    """Shape of the reader: 2.6 million parameters at 3,072 tokens."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=192,
        d_kv=32,
        num_heads=6,
        d_ff=512,
        num_layers=3,
        num_decoder_layers=2,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        feed_forward_proj="relu",
        dropout_rate=0.1,
        pad_token_id=0,
        eos_token_id=1,
    )
    config.decoder_start_token_id = 0
    return config


@torch.no_grad()
def copying_model(config: T5Config, seed: int) -> T5ForConditionalGeneration:
    """A T5 with seeded initial weights that favour copying.

    In the encoder, three heads look at the neighbours of a token and three at equal tokens. In the
    decoder, cross-attention returns what it looks at unchanged; two of its heads look for what
    follows the token just written, the others for equal tokens. All of it is a start for training,
    not a constraint.

    Args:
        config: six heads or more, and num_heads * d_kv == d_model.
        seed: of all random numbers.

    Raises:
        ValueError: the shape does not fit.
    """
    if config.num_heads < 6 or config.num_heads * config.d_kv != config.d_model:
        raise ValueError(
            f"num_heads ({config.num_heads}) must be at least 6, and num_heads * d_kv "
            f"({config.d_kv}) must be d_model ({config.d_model})"
        )
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model: Any = T5ForConditionalGeneration(config)
    start = _CopyingStart(config.d_model, config.d_kv, generator)
    encoder = [block.layer for block in model.encoder.block]
    decoder = [block.layer for block in model.decoder.block]
    _prefer(encoder[0][0].SelfAttention, (PREVIOUS, SECOND_PREVIOUS, NEXT))
    _prefer(decoder[0][0].SelfAttention, (PREVIOUS,))
    for layer in encoder:
        attention = layer[0].SelfAttention
        for head in (0, 1, 2):
            start.by_position(attention, head)
        for head in (3, 4, 5):
            start.by_match(attention, head)
    written = encoder[0][0].SelfAttention
    for layer in decoder:
        attention = layer[0].SelfAttention
        start.by_position(attention, 0)
        start.by_match(attention, 1)
        start.by_match(attention, 2)
        cross = layer[1].EncDecAttention
        start.pass_on(cross)
        for head in (0, 1):
            start.by_predecessor(cross, head, written)
        for head in (2, 3):
            start.by_match(cross, head)
    return model


def _prefer(attention: Any, buckets: tuple[int, ...]) -> None:  # noqa: ANN401 - see _CopyingStart
    """Let the first heads of a stack look at one relative position each, and quieten the rest."""
    bias = attention.relative_attention_bias.weight
    bias.mul_(0.1)
    for head, bucket in enumerate(buckets):
        bias[:, head] = 0.0
        bias[bucket, head] = POSITION_BIAS


class _CopyingStart:
    """Overwrites the weights of single heads.

    Attention modules are transformers' own, whose parts carry no types: hence `Any`.
    """

    def __init__(self, d_model: int, d_kv: int, generator: torch.Generator) -> None:
        self._d_model = d_model
        self._d_kv = d_kv
        self._generator = generator

    def by_position(self, attention: Any, head: int) -> None:  # noqa: ANN401
        """Look by position alone; carry a random projection of what is seen."""
        rows = self._rows(head)
        attention.q.weight[rows].mul_(QUIET)
        attention.v.weight[rows] = self._orthonormal(self._d_kv, self._d_model)
        attention.o.weight[:, rows] = self._orthonormal(self._d_model, self._d_kv)

    def by_match(self, attention: Any, head: int) -> None:  # noqa: ANN401
        """Look for equal states: the same projection for queries and keys."""
        rows = self._rows(head)
        projection = self._orthonormal(self._d_kv, self._d_model) * math.sqrt(MATCH_SCALE)
        attention.q.weight[rows] = projection
        attention.k.weight[rows] = projection

    def by_predecessor(self, cross: Any, head: int, written: Any) -> None:  # noqa: ANN401
        """Look for states whose predecessor, as head 0 of `written` noted it, equals the query."""
        rows, noted = self._rows(head), self._rows(0)
        scale = 1.5 * math.sqrt(MATCH_SCALE)
        cross.q.weight[rows] = written.v.weight[noted] * scale
        cross.k.weight[rows] = written.o.weight[:, noted].T * scale

    def pass_on(self, cross: Any) -> None:  # noqa: ANN401
        """Values and output of all heads together are the identity."""
        rotation = self._orthonormal(self._d_model, self._d_model)
        cross.v.weight.copy_(rotation)
        cross.o.weight.copy_(rotation.T)

    def _rows(self, head: int) -> slice:
        return slice(head * self._d_kv, (head + 1) * self._d_kv)

    def _orthonormal(self, rows: int, columns: int) -> Tensor:
        longer, shorter = max(rows, columns), min(rows, columns)
        basis, _ = torch.linalg.qr(torch.randn(longer, shorter, generator=self._generator))
        return basis if rows >= columns else basis.T
