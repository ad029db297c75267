"""AdamW for parameters that lie in rows over the ranks: each rank updates its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gazetteer.training.optimiser import MasterWeightAdamW, Rows


class RowsAdamW(MasterWeightAdamW):
    """`MasterWeightAdamW` for this rank's rows of every parameter.

    Args:
        named_parameters: names, and this rank's rows, as leaves that hold the gradients.
        heights: how many rows each parameter has on all ranks together, in the same order.
        rank: of this process.
        world_size: number of ranks.
        settings: of `MasterWeightAdamW`.
    """

    def __init__(
        self,
        named_parameters: Sequence[tuple[str, nn.Parameter]],
        heights: Sequence[int],
        rank: int,
        world_size: int,
        **settings: Any,  # noqa: ANN401 - of MasterWeightAdamW
    ) -> None:
        super().__init__(named_parameters, **settings)
        self._rows: dict[str, Rows] = {}
        for (name, parameter), height in zip(named_parameters, heights, strict=True):
            if parameter.requires_grad:
                # As torch.chunk cuts: the last ranks may have fewer rows, or none.
                start = min(rank * -(-height // world_size), height)
                self._rows[name] = Rows(start, start + len(parameter), height)

    @property
    def rows(self) -> Mapping[str, Rows | None]:
        """The rows of each parameter whose state is here."""
        return self._rows

    @property
    def is_spread(self) -> bool:
        """True: every rank has a part of the state."""
        return True
