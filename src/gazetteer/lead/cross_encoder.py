"""A cross-encoder whose layers can be scored: query and passage read together, pair by pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from gazetteer.data.buckets import length_buckets, pad_bucket
from gazetteer.lead.dual import SOME_TEXT
from gazetteer.lead.scores import LayerScores
from gazetteer.lead.states import layer_count, record_states
from gazetteer.losses.relevance import cross_encoder_scores
from gazetteer.records import TokenIds, TokenLists

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Head = Callable[[Tensor], Tensor]
"""Makes a score of the state of the first token: (pair, dim) -> (pair, 1)."""


@dataclass(frozen=True, slots=True)
class ListScores:
    """Scores of each query's own passages, its positive first; nothing is left to compute."""

    found: LayerScores

    def scores(self) -> LayerScores:
        """They need no other rank."""
        return self.found


@dataclass(frozen=True, slots=True)
class PairFormat:
    """How the ids of a query and of a passage, each with its special tokens, become one text.

    Attributes:
        between: ids that stand between them; the passage's first token is left out.
        has_types: passages' tokens are told from queries' by `token_type_ids`.
    """

    between: tuple[int, ...] = ()
    has_types: bool = False

    def join(self, query: TokenIds, passage: TokenIds) -> TokenIds:
        """Query ids, then passage ids. Source: LEAD."""
        between = np.asarray(self.between, dtype=query.dtype)
        return np.concatenate([query, between, passage[1:]])


class CrossLayers(nn.Module):
    """Scores of pairs, by the whole model and by its head on the states of chosen layers.

    Args:
        encoder: in whatever mode the caller wants.
        head: the encoder's own.
        pairs: how pairs are written for it.
        max_padded_tokens: of one encoder call, padding included.
    """

    reads_pairs = True

    def __init__(
        self, encoder: CrossEncoder, head: Head, pairs: PairFormat, *, max_padded_tokens: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.pairs = pairs
        self.max_padded_tokens = max_padded_tokens

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
    ) -> ListScores:
        """Scores of each query's own passages, as many for each; of no texts, too."""
        each = len(passages) // len(queries) if queries else 1
        asked = [query for query in queries for _ in range(each)] or [SOME_TEXT]
        final, states = self._read(asked, passages or [SOME_TEXT], layers)
        rows = slice(len(queries))
        by_layer = [cross_encoder_scores(state, self.head, passages=each) for state in states]
        final = final.view(-1, each)[rows]
        empty = final.new_zeros(0, *final.shape)
        positive = torch.zeros(len(final), dtype=torch.int64, device=final.device)
        return ListScores(
            LayerScores(final, torch.stack(by_layer)[:, rows] if by_layer else empty, positive)
        )

    def _read(
        self, queries: TokenLists, passages: TokenLists, layers: Sequence[int]
    ) -> tuple[Float[Tensor, " pair"], list[Float[Tensor, "pair hidden"]]]:
        """Final score of each pair, and its first token's state in each chosen layer."""
        joined = [self.pairs.join(*pair) for pair in zip(queries, passages, strict=True)]
        starts = np.array([len(query) + len(self.pairs.between) for query in queries])
        lengths = np.array([len(ids) for ids in joined])
        buckets = length_buckets(
            lengths, max_rows=len(joined), max_padded_tokens=self.max_padded_tokens
        )
        finals, firsts = [], []
        for bucket in buckets:
            with record_states(self.transformer) as recorded:
                found = self.encoder(self._features([joined[i] for i in bucket], starts[bucket]))
            finals.append(found["scores"].float().view(len(bucket)))
            firsts.append([states[:, 0] for states in recorded.chosen(layers)])
        order = torch.from_numpy(np.argsort(np.concatenate(buckets), kind="stable"))
        order = order.to(finals[0].device)
        by_layer = [torch.cat(parts)[order] for parts in zip(*firsts, strict=True)]
        return torch.cat(finals)[order], by_layer

    def _features(self, texts: Sequence[TokenIds], starts: np.ndarray) -> dict[str, Tensor]:
        ids, mask = pad_bucket(texts, self.transformer.config.pad_token_id or 0)
        features = {"input_ids": ids, "attention_mask": mask.long()}
        if self.pairs.has_types:
            is_passage = torch.arange(ids.shape[1]) >= torch.from_numpy(starts)[:, None]
            features["token_type_ids"] = (is_passage & mask).long()
        device = next(self.encoder.parameters()).device
        return {name: tensor.to(device) for name, tensor in features.items()}
