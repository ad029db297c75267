"""Numbers about a run: weighted averages merged over ranks, and timers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gazetteer.distributed.collectives import all_reduce_sum, broadcast_bytes, gather_bytes


class WeightedStats:
    """Weighted averages by name; values stay where they are until they are averaged."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[Tensor | float, float]]] = {}

    def add(self, name: str, value: Tensor | float, weight: float = 1.0) -> None:
        """Count a value; a tensor is not read now, so the device is not waited for."""
        kept = value.detach() if isinstance(value, Tensor) else value
        self._values.setdefault(name, []).append((kept, weight))

    def averages(self) -> dict[str, float]:
        """Average of each name over everything added on any rank, the same on every rank.

        Collective: every rank must call this; ranks may have seen different names.
        """
        names = _all_names(sorted(self._values))
        table = torch.tensor([self._sums(name) for name in names], dtype=torch.float64)
        totals = all_reduce_sum(table.view(-1, 2))
        return {
            name: total / weight
            for name, (total, weight) in zip(names, totals.tolist(), strict=True)
            if weight
        }

    def _sums(self, name: str) -> tuple[float, float]:
        pairs = self._values.get(name, [])
        return sum(float(value) * weight for value, weight in pairs), sum(w for _, w in pairs)


def _all_names(mine: list[str]) -> list[str]:
    gathered = gather_bytes(json.dumps(mine).encode())
    union = None
    if gathered is not None:
        union = json.dumps(
            sorted({name for part in gathered for name in json.loads(part)})
        ).encode()
    return json.loads(broadcast_bytes(union))


class Stopwatch:
    """Seconds spent in named stretches of code, on the host's clock."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
