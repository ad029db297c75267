"""A dual encoder whose layers can be scored: every student, and the smaller step of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.data.buckets import length_buckets, pad_bucket
from gazetteer.distributed.collectives import all_gather_rows_with_gradient
from gazetteer.lead.scores import LayerScores, first_of_own
from gazetteer.lead.states import layer_count, record_states
from gazetteer.losses.relevance import dual_encoder_scores
from gazetteer.records import TokenLists
from gazetteer.retriever import DualEncoder, EmbeddingBatch, TextEncoder
from gazetteer.retriever.encoder import FIRST_DECODER_TOKEN, pool

SOME_TEXT = np.zeros(1, dtype=np.int32)
"""Read by a rank without texts, so that it has a part in what others average."""


@dataclass(frozen=True, slots=True)
class VectorStates:
    """One vector per text and layer. All carry gradient where the model learns.

    Attributes:
        queries: the embeddings.
        passages: likewise; as many for each query, query by query.
        query_layers: the pooled states of the chosen layers.
        passage_layers: likewise.
    """

    queries: Float[Tensor, "query dim"]
    passages: Float[Tensor, "passage dim"]
    query_layers: Float[Tensor, "query layer hidden"]
    passage_layers: Float[Tensor, "passage layer hidden"]

    def scores(self) -> LayerScores:
        """Scores over the passages of all ranks. Collective, and so is the backward pass."""
        passages, first = all_gather_rows_with_gradient(self.passages)
        final = dual_encoder_scores(self.queries, passages)
        positive = first_of_own(len(self.queries), len(self.passages), first, final.device)
        if self.query_layers.shape[1] == 0:
            return LayerScores(final, final.new_zeros(0, *final.shape), positive)
        passage_layers, _ = all_gather_rows_with_gradient(self.passage_layers)
        layers = [
            dual_encoder_scores(self.query_layers[:, number], passage_layers[:, number])
            for number in range(self.query_layers.shape[1])
        ]
        return LayerScores(final, torch.stack(layers), positive)


class DualLayers(nn.Module):
    """Both towers in one call, with the states of chosen layers.

    Args:
        retriever: in whatever mode the caller wants.
    """

    reads_pairs = False

    def __init__(self, retriever: DualEncoder) -> None:
        super().__init__()
        self.retriever = retriever

    @property
    def layers(self) -> int:
        """Layers there are to choose from."""
        return layer_count(self.retriever.query_tower.model)

    def forward(
        self, queries: TokenLists, passages: TokenLists, layers: Sequence[int]
    ) -> VectorStates:
        """Embeddings and pooled states of texts; of none, too.

        Source:
            LEAD takes the first token's state. With another pooling, that pooling of the layer.
        """
        batch = self.retriever.batch
        of_queries = layer_vectors(self.retriever.query_tower, queries, batch, layers)
        of_passages = layer_vectors(self.retriever.passage_tower, passages, batch, layers)
        return VectorStates(of_queries[0], of_passages[0], of_queries[1], of_passages[1])


def layer_vectors(
    tower: TextEncoder, texts: TokenLists, batch: EmbeddingBatch, layers: Sequence[int]
) -> tuple[Float[Tensor, "text dim"], Float[Tensor, "text layer hidden"]]:
    """Embeddings of texts, and the pooled states of some layers, in the order of the texts."""
    given = texts or [SOME_TEXT]
    lengths = np.array([len(ids) for ids in given])
    buckets = length_buckets(
        lengths, max_rows=batch.max_texts, max_padded_tokens=batch.max_padded_tokens
    )
    finals, chosen = [], []
    for bucket in buckets:
        ids, mask = pad_bucket([given[i] for i in bucket], tower.model.config.pad_token_id or 0)
        ids, mask = ids.to(tower.device), mask.to(tower.device)
        with record_states(tower.model) as recorded:
            finals.append(tower(ids, mask))
        # A decoder has one state, and nothing to pool.
        pooled = [
            states[:, 0]
            if tower.pooling == FIRST_DECODER_TOKEN
            else pool(states, mask, tower.pooling)
            for states in recorded.chosen(layers)
        ]
        width = recorded.layers[0].shape[-1]
        chosen.append(torch.stack(pooled, 1) if pooled else ids.new_zeros(len(ids), 0, width))
    order = torch.from_numpy(np.argsort(np.concatenate(buckets), kind="stable"))[: len(texts)]
    order = order.to(tower.device)
    return torch.cat(finals)[order], torch.cat(chosen).to(finals[0].dtype)[order]
