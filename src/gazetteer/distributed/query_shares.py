"""How many queries of a step this rank has, beside the others: for losses that are averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.distributed.collectives import all_reduce_mean


@dataclass(frozen=True, slots=True)
class QueryShare:
    """This rank's part of one pass of a step.

    A loss is divided by what the whole step has per rank, all its passes together. So gradients
    that are added up over passes and averaged over ranks are those of one process that reads the
    step at once.

    Attributes:
        mine: queries of this rank in this pass, zero included.
        mean: queries per rank of the step: what sums over queries are divided by
            (`losses.contrastive.average_over_queries`).
        tokens: target tokens per rank of the step, for sums over these
            (`losses.reader.average_over_tokens`); 0 where there are no targets.
        in_pass: queries per rank of this pass alone.
    """

    mine: int
    mean: Float[Tensor, ""]
    tokens: Float[Tensor, ""]
    in_pass: Float[Tensor, ""]

    @classmethod
    def of(cls, mine: int, tokens: Tensor | None = None) -> QueryShare:
        """Ask the other ranks, of a step of one pass. Collective."""
        mean = all_reduce_mean(torch.tensor(float(mine)))
        return cls(mine, mean, _tokens_per_rank([tokens]), mean)

    @classmethod
    def of_passes(
        cls,
        mine: Sequence[int],
        together: Sequence[int],
        tokens: Sequence[Tensor | None],
        world_size: int,
    ) -> list[QueryShare]:
        """Shares of the passes of a step.

        Collective where there are targets: every rank must call this.

        Args:
            mine: this rank's queries in each pass.
            together: those of all ranks.
            tokens: this rank's target tokens in each pass; None, on every rank, without targets.
            world_size: number of ranks.
        """
        mean, tokens_per_rank = torch.tensor(sum(together) / world_size), _tokens_per_rank(tokens)
        return [
            cls(own, mean, tokens_per_rank, torch.tensor(all_ranks / world_size))
            for own, all_ranks in zip(mine, together, strict=True)
        ]

    def logged(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """A loss divided by `mean`, as an average over this rank's queries; without gradient.

        Averages of these, weighted by `mine`, over all passes and ranks, are those of the step.
        """
        return loss.detach() * (self.mean.item() / max(self.mine, 1))


def _tokens_per_rank(tokens: Sequence[Tensor | None]) -> Float[Tensor, ""]:
    counts = [count.float() for count in tokens if count is not None]
    return all_reduce_mean(torch.stack(counts).sum()) if counts else torch.zeros(())
