"""GradCache: a loss over more embeddings than there is memory for the graphs behind them.

Texts are embedded chunk by chunk and the graphs dropped; the loss gives each embedding a gradient;
then each chunk is embedded once more, and its gradient sent on into the weights. Whoever uses the
embeddings sees no difference, and gradients are those of the whole batch.

Source: "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
arXiv:2101.06983.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.distributed.replicas import unwrapped, without_averaging
from gazetteer.records import TokenLists


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """Texts embedded at once.

    Attributes:
        queries: `--gc_q_chunk_size`.
        passages: `--gc_p_chunk_size`.
    """

    queries: int
    passages: int


Chunk = tuple[TokenLists, TokenLists]
"""Queries and passages of one call."""


def embed_in_chunks(
    towers: nn.Module, queries: TokenLists, passages: TokenLists, sizes: ChunkSizes
) -> tuple[Float[Tensor, "query dim"], Float[Tensor, "passage dim"]]:
    """Embed as `towers(queries, passages)` does, keeping the graph of no chunk.

    On backward every chunk is embedded again, with the random numbers of the first time, so that
    dropout hides the same states. Gradients are averaged over ranks with the last chunk only.

    Args:
        towers: maps queries and passages to their embeddings; replicated or not.
        queries: token ids.
        passages: token ids.
        sizes: of a chunk.

    Returns:
        Embeddings that need a gradient.
    """
    chunks = _chunks(queries, passages, sizes)
    # Autograd comes back only to what was made from something that needs a gradient.
    anchor = torch.zeros((), requires_grad=True)
    return _EmbedTwice.apply(anchor, towers, chunks)  # type: ignore[return-value]


def _chunks(queries: TokenLists, passages: TokenLists, sizes: ChunkSizes) -> list[Chunk]:
    """Chunks in order; the last one has queries and passages if any chunk has."""
    of_queries, of_passages = _cut(queries, sizes.queries), _cut(passages, sizes.passages)
    count = max(len(of_queries), len(of_passages))
    # Empty chunks come first: the last is the one in which ranks average, and takes both towers.
    return list(
        zip(
            [()] * (count - len(of_queries)) + of_queries,
            [()] * (count - len(of_passages)) + of_passages,
            strict=True,
        )
    )


def _cut(texts: TokenLists, size: int) -> list[TokenLists]:
    return [texts[start : start + size] for start in range(0, len(texts), size)] or [()]


class _EmbedTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, towers: nn.Module, chunks: list[Chunk]) -> Any:  # noqa: ANN401
        ctx.towers, ctx.chunks, ctx.random_states = towers, chunks, []
        once = []
        for queries, passages in chunks:
            ctx.random_states.append(_random_state())
            # As in training: without a graph, encoders may take faster ways to other last bits.
            with torch.enable_grad():
                # No name for what has a graph: it would live on beside that of the next chunk.
                once.append([part.detach() for part in unwrapped(towers)(queries, passages)])
        ctx.counts = [[len(part) for part in embeddings] for embeddings in once]
        return tuple(torch.cat(parts) for parts in zip(*once, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:  # noqa: ANN401
        after = _random_state()
        of_queries, of_passages = (
            gradient.split(list(counts))
            for gradient, counts in zip(gradients, zip(*ctx.counts, strict=True), strict=True)
        )
        shares = zip(of_queries, of_passages, strict=True)
        last = len(ctx.chunks) - 1
        for number, (chunk, share) in enumerate(zip(ctx.chunks, shares, strict=True)):
            _restore(ctx.random_states[number])
            with torch.enable_grad(), without_averaging(ctx.towers, number < last):
                embeddings = ctx.towers(*chunk)
                # A frozen tower's need none.
                learns = [part.requires_grad for part in embeddings]
                torch.autograd.backward(
                    list(compress(embeddings, learns)), list(compress(share, learns))
                )
        _restore(after)
        return None, None, None


def _random_state() -> tuple[Tensor, Tensor | None]:
    """State of what draws dropout masks, on the CPU and on this process's GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _restore(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
