"""The encoder behind an index, outside of a training run: loaded by name, and identified."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.data.tokens import tokenizer_fingerprint
from gazetteer.index.manifest import EncoderIdentity
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever, tower_fingerprint
from gazetteer.retriever.loading import find_source
from gazetteer.retriever.ways import DEFAULT_POOLING, PoolingName

UNKNOWN = "unknown"
"""Stands where Atlas's files do not say what made them."""
UNKNOWN_ENCODER = EncoderIdentity(
    weights=UNKNOWN,
    tokenizer=UNKNOWN,
    template=UNKNOWN,
    pooling=UNKNOWN,
    normalize=False,
    max_tokens=0,
)
MAX_TOKENS = 512
"""BERT's positions; Atlas caps the retriever's inputs there."""
OF_AN_ENCODER = ("mean", "cls", "sqrt")
"""Poolings that a T5 has without its decoder."""
BATCH = EmbeddingBatch(max_texts=512, max_padded_tokens=16_384)


def load_encoder(
    model: str, settings: EncoderIdentity, dtype: torch.dtype = torch.float32
) -> tuple[DualEncoder, PreTrainedTokenizerBase, EncoderIdentity]:
    """Load a retriever, to be used as an index's encoder was.

    Args:
        model: folder or hub name.
        settings: how it was used; what is unknown is done as Atlas does it.
        dtype: weights are cast to it. A run in bfloat16 has other weights than one in float32.

    Returns:
        The retriever, its tokenizer, and who they are: `settings` with their own fingerprints.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    # What the retriever's folder notes comes before `settings`.
    is_noted = find_source(model).noted is not None
    is_of_encoder = settings.pooling in OF_AN_ENCODER and not is_noted
    retriever, tokenizer = load_retriever(
        model,
        pooling=cast(PoolingName, settings.pooling) if is_of_encoder else DEFAULT_POOLING,
        normalize=settings.normalize and not is_noted,
        encoder_only=is_of_encoder,
        dropout=0.0,
        dtype=dtype,
        batch=BATCH,
        takes_suggestions=False,
    )
    tower = retriever.passage_tower
    identity = replace(
        settings,
        pooling=UNKNOWN if settings.pooling == UNKNOWN else tower.pooling,
        normalize=settings.normalize if settings.pooling == UNKNOWN else tower.normalize,
        weights=tower_fingerprint(tower),
        tokenizer=tokenizer_fingerprint(tokenizer),
    )
    return retriever.eval().requires_grad_(False), tokenizer, identity


def load_encoder_of(
    model: str, made_by: EncoderIdentity
) -> tuple[DualEncoder, PreTrainedTokenizerBase, EncoderIdentity]:
    """Load the encoder of an index: as it is, or rounded to bfloat16 if that is what made it.

    See `load_encoder`; a retriever that is not the one looked for comes in float32.
    """
    loaded = load_encoder(model, made_by)
    if made_by.weights in (loaded[2].weights, UNKNOWN):
        return loaded
    rounded = load_encoder(model, made_by, torch.bfloat16)
    return rounded if rounded[2].weights == made_by.weights else loaded
