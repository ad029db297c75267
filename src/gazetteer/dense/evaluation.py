"""Numbers about a dense run on data it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from gazetteer.data.sampling import draw_step
from gazetteer.dense.batches import DenseBatches
from gazetteer.modes import evaluation_mode
from gazetteer.records import Ranks
from gazetteer.reporting import Reporter
from gazetteer.stats import WeightedStats


@dataclass(frozen=True, slots=True)
class ValidationLoss:
    """The loss on a file of `--eval_data`, without dropout; it may not follow retrieval quality.

    Attributes:
        name: the file's, as logged.
        batches: its lines, with the same passages every time.
        step: computes the loss, on towers that are not replicated.
        size: lines of a batch, of all ranks together. With losses over a whole batch the value
            depends on it.
        ranks: this process among its peers.
    """

    name: str
    batches: DenseBatches
    step: nn.Module
    size: int
    ranks: Ranks

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Average over all lines, the same on every rank.

        Collective: every rank must call this.
        """
        stats, count = WeightedStats(), self.batches.count
        with evaluation_mode(self.step):
            for first in range(0, count, self.size):
                (share,) = draw_step(
                    first,
                    count=count,
                    size=self.size,
                    rank=self.ranks.rank,
                    world_size=self.ranks.world_size,
                    seed=0,
                    shuffle=False,
                    limit=count,
                )
                _, numbers = self.step(self.batches.build(share.draws))
                stats.add("eval_loss", numbers["loss/train_loss"], weight=len(share.draws))
        return stats.averages()


class Measurement(Protocol):
    """Something to measure."""

    @property
    def name(self) -> str:
        """As logged."""
        ...

    def measure(self) -> dict[str, float]:
        """Numbers by name, the same on every rank. Collective: every rank must call this."""
        ...


def report_all(measurements: Sequence[Measurement], step: int, reporter: Reporter) -> None:
    """Measure each and report it. Collective: every rank must call this."""
    for each in measurements:
        reporter.evaluation(step, each.name, each.measure(), {})
