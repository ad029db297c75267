"""Metrics of single examples, and what they amount to over all workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gazetteer.distributed.collectives import all_gather_rows
from gazetteer.metrics.bootstrap import bootstrap_interval
from gazetteer.records import Example

Interval = tuple[float, float]

COMPRESSION_RATE = "compression_rate"
"""Passage tokens for each vector that the reader decoded over."""
_AS_THEY_ARE = ("eval_loss", COMPRESSION_RATE)
"""Metrics that are no shares."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Metrics of a data set, in percent, in the order in which they are logged.

    eval_loss is in nats, compression_rate a ratio.

    Attributes:
        averages: over all examples.
        intervals: 95 % bootstrap interval of each average.
    """

    averages: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True, slots=True)
class Totals:
    """Metrics this rank has seen.

    What is resampled for intervals is a unit: a line of data, with all examples made of it, or for
    eval_loss a batch, as it is averaged over batches. All units of a metric have equally many
    values.

    Attributes:
        examples_per_line: example e is made of line e // examples_per_line.
        seen: name -> (unit, value) pairs.
    """

    examples_per_line: int = 1
    seen: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, metrics: Mapping[str, float], example: Example) -> None:
        """Count one example."""
        self.add_unit(metrics, example.example_id // self.examples_per_line)

    def add_unit(self, metrics: Mapping[str, float], unit: int) -> None:
        """Count a value of a unit."""
        for name, value in metrics.items():
            self.seen.setdefault(name, []).append((unit, value))

    def measured(self, names: Sequence[str]) -> Measured:
        """Averages and intervals over all ranks, the same on each; names nobody saw are left out.

        Collective: every rank must call this with the same names.

        The values of all ranks are brought into one order first: neither depends on who saw which.
        """
        mine = [
            (place, unit, value)
            for place, name in enumerate(names)
            for unit, value in self.seen.get(name, ())
        ]
        gathered, _ = all_gather_rows(torch.tensor(mine, dtype=torch.float64).view(-1, 3))
        rows = gathered.numpy()
        averages, intervals = {}, {}
        for place, name in enumerate(names):
            units, values = rows[rows[:, 0] == place, 1:].T
            if len(units):
                scale = 1.0 if name in _AS_THEY_ARE else 100.0
                per_unit = scale * _means(units, values)
                averages[name] = float(per_unit.mean())
                intervals[name] = bootstrap_interval(per_unit)
        return Measured(averages, intervals)


def _means(units: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of the values of each unit, by unit."""
    values = values[np.lexsort((values, units))]
    _, places, counts = np.unique(np.sort(units), return_index=True, return_counts=True)
    return np.add.reduceat(values, places) / counts
