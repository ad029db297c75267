"""How many queries of a batch this rank has, beside the others: for losses that are averages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.distributed.collectives import all_reduce_mean


@dataclass(frozen=True, slots=True)
class QueryShare:
    """This rank's part of a batch.

    Attributes:
        mine: its queries, zero included.
        mean: queries per rank, over all ranks: what a loss is divided by so that gradients averaged
            over ranks are those of one process (`losses.contrastive.average_over_queries`).
    """

    mine: int
    mean: Float[Tensor, ""]

    @classmethod
    def of(cls, mine: int) -> QueryShare:
        """Ask the other ranks. Collective."""
        return cls(mine, all_reduce_mean(torch.tensor(float(mine))))

    def logged(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """A loss divided by `mean`, as an average over this rank's queries; without gradient."""
        return loss.detach() * (self.mean.item() / max(self.mine, 1))
