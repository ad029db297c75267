"""Numbers about a dense run on data it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from gazetteer.data.sampling import Draw, evaluation_batches
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
        batch_size: lines per rank. With losses over a whole batch the value depends on it.
        ranks: this process among its peers.
    """

    name: str
    batches: DenseBatches
    step: nn.Module
    batch_size: int
    ranks: Ranks

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Average over all lines, the same on every rank.

        Collective: every rank must call this.
        """
        stats = WeightedStats()
        shares = evaluation_batches(
            self.batches.count,
            batch_size=self.batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        with evaluation_mode(self.step):
            for share in shares:
                _, numbers = self.step(self.batches.build([Draw(index, 0) for index in share]))
                stats.add("eval_loss", numbers["loss/train_loss"], weight=len(share))
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
