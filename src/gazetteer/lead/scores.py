"""What a model thinks of the passages of a batch: its final scores, and those of chosen layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Scores of this rank's queries over their candidates, the same ones in every layer.

    Attributes:
        final: what the model ranks by.
        layers: of the chosen layers, lowest first.
        positive: column of each query's positive.
    """

    final: Float[Tensor, "query candidate"]
    layers: Float[Tensor, "layer query candidate"]
    positive: Int[Tensor, " query"]

    def own_lists(self, passages: int) -> LayerScores:
        """Scores over each query's own passages only, its positive first."""
        columns = self.positive[:, None] + torch.arange(passages, device=self.positive.device)
        return LayerScores(
            self.final.gather(1, columns),
            self.layers.gather(2, columns.expand(len(self.layers), *columns.shape)),
            torch.zeros_like(self.positive),
        )


class States(Protocol):
    """What a model made of a batch's texts on this rank, ready to be scored."""

    def scores(self) -> LayerScores:
        """Score them. Collective, backward too, where passages of other ranks are candidates."""
        ...


def first_of_own(queries: int, passages: int, first: int, device: torch.device) -> Tensor:
    """Columns of the positives: the first of as many passages for each query, from `first` on.

    Args:
        queries: on this rank.
        passages: on this rank.
        first: column of this rank's first passage.
        device: where the scores are.
    """
    each = passages // queries if queries else 0
    return first + each * torch.arange(queries, device=device)
