"""A tiny retriever and batches for it, the same in every process."""

from __future__ import annotations

import numpy as np
import torch

from gazetteer.dense.records import DenseBatch
from gazetteer.retriever import DualEncoder, EmbeddingBatch
from gazetteer.retriever.encoder import TextEncoder
from tests.support.tiny_models import tiny_bert

PASSAGES = 3


def tiny_retriever(*, dropout: float = 0.0, normalize: bool = False) -> DualEncoder:
    """Untied towers with different weights, in training mode."""
    towers = [
        TextEncoder(tiny_bert(seed, dropout=dropout), pooling="mean", normalize=normalize)
        for seed in (1, 2)
    ]
    return DualEncoder(*towers, EmbeddingBatch(max_texts=4, max_padded_tokens=64)).train()


def dense_batch(queries: range, *, scored: bool = False) -> DenseBatch:
    """Queries of these numbers, with `PASSAGES` passages each."""
    query_tokens, passage_tokens, scores = [], [], []
    for number in queries:
        generator = np.random.default_rng(number)
        query_tokens.append(tokens(generator))
        passage_tokens += [tokens(generator) for _ in range(PASSAGES)]
        scores.append(generator.normal(size=PASSAGES))
    return DenseBatch(
        examples=tuple(queries),
        query_tokens=query_tokens,
        passage_tokens=passage_tokens,
        teacher_scores=torch.tensor(np.array(scores), dtype=torch.float32).view(-1, PASSAGES)
        if scored
        else None,
    )


def tokens(generator: np.random.Generator) -> np.ndarray:
    """2 to 9 token ids."""
    return generator.integers(4, 60, generator.integers(2, 10)).astype(np.int32)
