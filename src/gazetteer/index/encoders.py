"""The encoder behind an index, outside of a training run: loaded by name, and identified."""

from __future__ import annotations

from dataclasses import replace
from typing import cast, get_args

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.data.tokens import tokenizer_fingerprint
from gazetteer.index.storage import EncoderIdentity
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever, weights_fingerprint
from gazetteer.retriever.encoder import Pooling

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
BATCH = EmbeddingBatch(max_texts=512, max_padded_tokens=16_384)


def load_encoder(
    model: str, settings: EncoderIdentity
) -> tuple[DualEncoder, PreTrainedTokenizerBase, EncoderIdentity]:
    """Load a retriever, to be used as an index's encoder was.

    Args:
        model: folder or hub name.
        settings: how it was used, and its fingerprints where they are known. A run in bfloat16
            embeds with weights that were rounded: if those are the weights meant, so are these.

    Returns:
        The retriever, its tokenizer, and who they are: `settings` with their own fingerprints.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    retriever, tokenizer = load_retriever(
        model,
        # Atlas's way, where nothing is known.
        pooling=_pooling(settings.pooling),
        normalize=settings.normalize,
        dropout=0.0,
        dtype=torch.float32,
        batch=BATCH,
    )
    weights = weights_fingerprint(retriever.passage_tower.model)
    if settings.weights not in (weights, UNKNOWN):
        retriever, weights = _rounded_if_meant(retriever, weights, settings.weights)
    identity = replace(settings, weights=weights, tokenizer=tokenizer_fingerprint(tokenizer))
    return retriever.eval().requires_grad_(False), tokenizer, identity


def _pooling(name: str) -> Pooling:
    return cast(Pooling, name) if name in get_args(Pooling) else "mean"


def _rounded_if_meant(retriever: DualEncoder, weights: str, meant: str) -> tuple[DualEncoder, str]:
    state = {name: tensor.clone() for name, tensor in retriever.state_dict().items()}
    rounded = weights_fingerprint(retriever.to(torch.bfloat16).passage_tower.model)
    if rounded == meant:
        return retriever, rounded
    retriever.to(torch.float32).load_state_dict(state)
    return retriever, weights
