"""A late-interaction model (ColBERT) whose layers can be scored.

A text is not one vector but one per token. The model is sentence-transformers'
`MultiVectorEncoder`; texts come as token ids, as all others here do, and are marked as it would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from gazetteer.data.buckets import pad_bucket
from gazetteer.distributed.collectives import (
    all_gather_rows,
    all_gather_rows_with_gradient,
    all_reduce_max,
)
from gazetteer.lead.dual import SOME_TEXT
from gazetteer.lead.scores import LayerScores, first_of_own
from gazetteer.lead.states import layer_count, record_states
from gazetteer.losses.relevance import late_interaction_scores
from gazetteer.records import TokenIds, TokenLists

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

Side = Literal["query", "document"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marking:
    """How a text is marked as query or document.

    Attributes:
        query: ids that mark a query.
        document: ids that mark a document.
        replaces_first: they stand for the first token, rather than after it.
        query_length: queries are filled up to this length; None leaves them as long as they are.
        filler: the id that fills them.
        attends: the other tokens see those that fill.
    """

    query: tuple[int, ...]
    document: tuple[int, ...]
    replaces_first: bool
    query_length: int | None
    filler: int
    attends: bool

    def mark(self, ids: TokenIds, side: Side) -> TokenIds:
        """The ids of one text with its mark; queries cut to their length, their end kept."""
        mark = np.asarray(self.query if side == "query" else self.document, dtype=ids.dtype)
        kept = ids[:0] if self.replaces_first and len(mark) else ids[:1]
        marked = np.concatenate([kept, mark, ids[1:]])
        if side == "query" and self.query_length and len(marked) > self.query_length:
            return np.concatenate([marked[: self.query_length - 1], marked[-1:]])
        return marked


@dataclass(frozen=True, slots=True)
class TokenStates:
    """One vector per token and layer. All but the masks carry gradient where the model learns.

    Attributes:
        queries: token embeddings.
        query_mask: True at tokens that are scored, those that fill up the query included.
        query_layers: token states of the chosen layers.
        passages: likewise; as many for each query, query by query.
        passage_mask: True at tokens that are scored.
        passage_layers: likewise.
    """

    queries: Float[Tensor, "query query_token dim"]
    query_mask: Bool[Tensor, "query query_token"]
    query_layers: Float[Tensor, "query layer query_token hidden"]
    passages: Float[Tensor, "passage passage_token dim"]
    passage_mask: Bool[Tensor, "passage passage_token"]
    passage_layers: Float[Tensor, "passage layer passage_token hidden"]

    def scores(self) -> LayerScores:
        """Scores over the passages of all ranks. Collective, and so is the backward pass.

        Queries travel to the passages, and scores back: passages have many more tokens.
        """
        mine = self._with_longest_queries()
        queries, first_query = all_gather_rows_with_gradient(mine.queries)
        query_layers = mine.query_layers
        if query_layers.shape[1]:
            query_layers, _ = all_gather_rows_with_gradient(query_layers)
        query_mask = all_gather_rows(mine.query_mask.byte())[0].bool()
        found = [late_interaction_scores(queries, query_mask, self.passages, self.passage_mask)]
        found += [
            late_interaction_scores(
                query_layers[:, number], query_mask, self.passage_layers[:, number],
                self.passage_mask,
            )
            for number in range(self.query_layers.shape[1])
        ]  # fmt: skip
        local = torch.stack(found, dim=2).transpose(0, 1)  # (passage, query, 1 + layer)
        everything, first = all_gather_rows_with_gradient(local.contiguous())
        scores = everything[:, first_query : first_query + len(self.queries)].permute(2, 1, 0)
        positive = first_of_own(len(self.queries), len(self.passages), first, scores.device)
        return LayerScores(scores[0], scores[1:], positive)

    def _with_longest_queries(self) -> TokenStates:
        """The same, with queries as long as the longest of any rank."""
        width = torch.tensor(self.query_mask.shape[1])
        missing = int(all_reduce_max(width)) - int(width)
        return TokenStates(
            F.pad(self.queries, (0, 0, 0, missing)),
            F.pad(self.query_mask, (0, missing)),
            F.pad(self.query_layers, (0, 0, 0, missing)),
            self.passages,
            self.passage_mask,
            self.passage_layers,
        )


class LateInteraction(nn.Module):
    """Queries and passages in one call, with the states of chosen layers.

    Args:
        encoder: in whatever mode the caller wants.
        marking: how texts are marked for it.
    """

    reads_pairs = False

    def __init__(self, encoder: MultiVectorEncoder, marking: Marking) -> None:
        super().__init__()
        self.encoder = encoder
        self.marking = marking

    @property
    def layers(self) -> int:
        """Layers there are to choose from."""
        return layer_count(self.transformer)

    @property
    def transformer(self) -> PreTrainedModel:
        """The model inside the encoder, without its head."""
        return cast(PreTrainedModel, self.encoder[0].model)

    def forward(
        self, queries: TokenLists, passages: TokenLists, layers: Sequence[int]
    ) -> TokenStates:
        """Token embeddings and states of texts, padded to the longest of them; of none, too.

        Source:
            ColBERT (arXiv:2004.12832); LEAD takes the states of its layers as they are.
        """
        return TokenStates(
            *self._states(queries, "query", layers), *self._states(passages, "document", layers)
        )

    def _states(
        self, texts: TokenLists, side: Side, layers: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        marked = [self.marking.mark(ids, side) for ids in texts or [SOME_TEXT]]
        ids, mask = pad_bucket(marked, self.transformer.config.pad_token_id or 0)
        features = {"input_ids": ids, "attention_mask": mask.long()}
        if side == "query" and self.marking.query_length:
            features = self._filled_up(ids, mask, self.marking.query_length)
        device = next(self.encoder.parameters()).device
        features = {name: tensor.to(device) for name, tensor in features.items()}
        with record_states(self.transformer) as recorded:
            found = self.encoder(features, task=side)
        embeddings, scored = found["token_embeddings"], found["attention_mask"].bool()
        chosen = recorded.chosen(layers)
        width = recorded.layers[0].shape[-1]
        empty = embeddings.new_zeros(len(ids), 0, embeddings.shape[1], width)
        stacked = torch.stack(chosen, dim=1) if chosen else empty
        return embeddings[: len(texts)], scored[: len(texts)], stacked[: len(texts)]

    def _filled_up(self, ids: Tensor, mask: Tensor, length: int) -> dict[str, Tensor]:
        missing = max(0, length - ids.shape[1])
        ids, mask = F.pad(ids, (0, missing)), F.pad(mask, (0, missing))
        attended = torch.ones_like(mask) if self.marking.attends else mask
        return {
            "input_ids": ids.masked_fill(~mask, self.marking.filler),
            "attention_mask": attended.long(),
            "query_expansion_positions": ~mask,
        }
