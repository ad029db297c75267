"""A tiny retriever and batches for it, the same in every process."""

from __future__ import annotations

import numpy as np
import torch

from gazetteer.dense.known_positives import padded_keys, passage_keys
from gazetteer.dense.records import BatchKeys, DenseBatch
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


def dense_batch(queries: range, *, scored: bool = False, keyed: bool = False) -> DenseBatch:
    """Queries of these numbers, with `PASSAGES` passages each.

    Where it has keys, the positive of the next query answers each query, too.
    """
    made = [_query(number) for number in queries]
    passages = [text for _, texts, _ in made for text in texts]
    rows = [-1] * len(passages)
    known = [(_query(number)[1][0], _query(number + 1)[1][0]) for number in queries]
    positives = [passage_keys([-1, -1], texts)[:, 1].numpy() for texts in known]
    return DenseBatch(
        examples=tuple(queries),
        query_tokens=[query for query, _, _ in made],
        passage_tokens=passages,
        teacher_scores=torch.tensor(
            np.array([scores for _, _, scores in made]), dtype=torch.float32
        ).view(-1, PASSAGES)
        if scored
        else None,
        keys=BatchKeys(passage_keys(rows, passages), padded_keys(positives)) if keyed else None,
    )


def _query(number: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Tokens of a query, of its passages, and a teacher's scores."""
    generator = np.random.default_rng(number)
    query, *passages = (tokens(generator) for _ in range(1 + PASSAGES))
    return query, passages, generator.normal(size=PASSAGES)


def tokens(generator: np.random.Generator) -> np.ndarray:
    """2 to 9 token ids."""
    return generator.integers(4, 60, generator.integers(2, 10)).astype(np.int32)
