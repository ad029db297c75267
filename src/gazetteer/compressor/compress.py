"""The compressor: a backbone, a pooling, and a mapping into the reader's width.

Its result is what a reader's `encode` gives, with few vectors of each passage instead of one per
token; so whatever decodes over passages, scores them or generates from them needs to know nothing
of it.

Source: OSCAR, arXiv:2504.07109 (memory tokens after query and passage, first layers of the
generator or another encoder, a token for relevance); mean pooling: arXiv:2510.20797; first states:
FiD-Light, arXiv:2209.14290.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.compressor.pooling import pool, relevance_states, vector_counts
from gazetteer.compressor.settings import CompressorSettings
from gazetteer.data.buckets import length_buckets
from gazetteer.reader.fusion import EncodedPassages
from gazetteer.reader.layout import lay_out
from gazetteer.records import TokenIds


@dataclass(frozen=True, slots=True)
class Compressed:
    """Passages of several queries as the reader takes them.

    Attributes:
        passages: few vectors of each; carries gradient.
        relevance: what the relevance token says of each, float32, 0 where a query has fewer
            passages; carries gradient. None without such a token.
        tokens: of each passage without its query, host, int64; None where nothing is compressed.
    """

    passages: EncodedPassages
    relevance: Float[Tensor, "query passage"] | None = None
    tokens: np.ndarray | None = None

    @property
    def rate(self) -> float | None:
        """Achieved: passage tokens for each vector; None where nothing is compressed."""
        if self.tokens is None:
            return None
        return float(self.tokens.sum() / max(1, self.passages.lengths.sum()))

    @property
    def rates(self) -> list[float]:
        """Achieved for each query; empty where nothing is compressed."""
        if self.tokens is None:
            return []
        vectors = np.maximum(self.passages.lengths.sum(axis=1), 1)
        return (self.tokens.sum(axis=1) / vectors).tolist()

    def best_first(self, count: int) -> tuple[Compressed, np.ndarray]:
        """The `count` most relevant passages of each query, equals in the order they came.

        Returns:
            These passages, and for each its place among all of its query's: host, int64
            (query, passage). Places of absent passages come last.
        """
        assert self.relevance is not None, "needs a relevance token"
        scores = self.relevance.detach().cpu().numpy()
        scores = np.where(self.passages.lengths > 0, scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :count]

        def chosen(table: np.ndarray) -> np.ndarray:
            return np.take_along_axis(table, order, axis=1)

        kept = EncodedPassages(
            self.passages.states, chosen(self.passages.starts), chosen(self.passages.lengths)
        )
        places = torch.from_numpy(order).to(self.relevance.device)
        tokens = None if self.tokens is None else chosen(self.tokens)
        return Compressed(kept, self.relevance.gather(1, places), tokens), order


class Compressor(nn.Module):
    """(query, passage) -> a few vectors.

    Args:
        backbone: any model of transformers that takes `inputs_embeds` and `attention_mask` and
            gives `last_hidden_state`; sequences are padded at their end.
        settings: what is made of its states.
        mapping: from the backbone's width to the reader's.
        is_shared: the backbone is a part of the reader: trained and saved there.
        learned_scale: standard deviation of the learned tokens' first values.
        max_padded_tokens: tokens of one call of the backbone, padding included.
    """

    def __init__(
        self,
        backbone: nn.Module,
        settings: CompressorSettings,
        *,
        mapping: nn.Module,
        is_shared: bool,
        learned_scale: float,
        max_padded_tokens: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.mapping = mapping
        self.settings = settings
        self.is_shared = is_shared
        self.max_padded_tokens = max_padded_tokens
        width: int = backbone.config.hidden_size  # type: ignore[union-attr, assignment]
        memory = settings.vectors if settings.pooling == "memory" else 0
        self.memory = _learned(memory, width, learned_scale)
        self.relevance_token = _learned(int(settings.has_relevance), width, learned_scale)
        self.relevance_head = nn.Linear(width, 1) if settings.has_relevance else None

    def own_named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters that are no part of the reader."""
        for name, parameter in self.named_parameters():
            if not (self.is_shared and name.startswith("backbone.")):
                yield name, parameter

    def forward(
        self, inputs: Sequence[Sequence[TokenIds]], beside: Sequence[int] | None = None
    ) -> Compressed:
        """The same as `compress`."""
        return self.compress(inputs, beside)

    def compress(
        self, inputs: Sequence[Sequence[TokenIds]], beside: Sequence[int] | None = None
    ) -> Compressed:
        """Compress every passage of every query, each apart, in buckets of similar length.

        Args:
            inputs: for each query, the compressor's token ids of each of its passages, with the
                query or without. Queries may have different numbers of passages.
            beside: for each query, how many of these tokens are not the passage's: the query's and
                special ones. None: none are.

        Returns:
            Vectors with gradient, unless called under `torch.no_grad`.
        """
        tokens = [ids for passages in inputs for ids in passages if len(ids)]
        table = np.zeros((len(inputs), max((len(p) for p in inputs), default=0)), dtype=np.int64)
        for row, passages in zip(table, inputs, strict=True):
            row[: len(passages)] = [len(ids) for ids in passages]
        lengths, slots = table.reshape(-1), np.flatnonzero(table)
        others = np.zeros(len(inputs), dtype=np.int64) if beside is None else np.asarray(beside)
        own = np.where(table > 0, np.maximum(table - others[:, None], 0), 0)
        counts = np.zeros_like(lengths)
        counts[slots] = vector_counts(
            lengths[slots],
            own.reshape(-1)[slots],
            most=self.settings.vectors,
            rate=self.settings.rate,
        )
        starts, position = np.zeros_like(lengths), 0
        vectors: list[Tensor] = []
        scores: list[Tensor] = []
        order: list[np.ndarray] = []
        for bucket in self._buckets(lengths[slots], counts[slots]):
            places = slots[bucket]
            some, relevance = self._compress_bucket([tokens[i] for i in bucket], counts[places])
            vectors.append(some)
            scores.append(relevance)
            order.append(places)
            ends = position + np.cumsum(counts[places])
            starts[places] = ends - counts[places]
            position = int(ends[-1])
        encoded = EncodedPassages(
            self._joined(vectors), starts.reshape(table.shape), counts.reshape(table.shape)
        )
        relevance = None
        if self.relevance_head is not None:
            flat = torch.zeros(lengths.size, device=self.memory.device)
            if scores:
                where = torch.from_numpy(np.concatenate(order)).to(flat.device)
                flat = flat.index_copy(0, where, torch.cat(scores))
            relevance = flat.view(table.shape)
        return Compressed(encoded, relevance, own)

    def _buckets(self, lengths: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
        learned = counts if len(self.memory) else 0
        return length_buckets(
            lengths + learned + len(self.relevance_token),
            max_rows=max(1, len(lengths)),
            max_padded_tokens=self.max_padded_tokens,
        )

    def _compress_bucket(
        self, token_lists: Sequence[TokenIds], counts: np.ndarray
    ) -> tuple[Float[Tensor, "vector dim"], Float[Tensor, " sequence"]]:
        """Vectors of each sequence, one sequence after the other, and what its relevance is."""
        lengths = np.array([len(ids) for ids in token_lists], dtype=np.int64)
        ids = torch.from_numpy(np.concatenate(token_lists).astype(np.int64))
        embed = self.backbone.get_input_embeddings()  # type: ignore[operator]
        embedded: Tensor = embed(ids.to(self.memory.device))
        # The learned tokens stand at the true end of each sequence, not behind its padding.
        rows = torch.cat([embedded, self.memory, self.relevance_token])
        at_memory = np.full_like(lengths, len(embedded))
        at_relevance = at_memory + len(self.memory)
        layout = lay_out(
            np.stack([np.cumsum(lengths) - lengths, at_memory, at_relevance], axis=1),
            np.stack(
                [
                    lengths,
                    counts if len(self.memory) else np.zeros_like(counts),
                    np.full_like(lengths, len(self.relevance_token)),
                ],
                axis=1,
            ),
        )
        index, mask = (
            torch.from_numpy(each).to(rows.device, non_blocking=True)
            for each in (layout.index, layout.mask)
        )
        states: Tensor = self.backbone(
            inputs_embeds=rows.index_select(0, index.view(-1)).view(*index.shape, -1),
            attention_mask=mask.long(),
        ).last_hidden_state
        vectors = self.mapping(pool(self.settings.pooling, states, layout, lengths, counts))
        if self.relevance_head is None:
            return vectors, vectors.new_zeros(0)
        scores = self.relevance_head(relevance_states(states, layout)).squeeze(1)
        return vectors, scores.float()

    def _joined(self, vectors: list[Tensor]) -> Float[Tensor, "vector dim"]:
        if vectors:
            return torch.cat(vectors)
        return self.mapping(self.memory.new_zeros(0, self.memory.shape[1]))


def _learned(count: int, width: int, scale: float) -> Tensor:
    """Learned vectors; where there are none, nothing that could be trained, saved or averaged."""
    vectors = torch.randn(count, width) * scale
    return nn.Parameter(vectors) if count else nn.Buffer(vectors, persistent=False)
