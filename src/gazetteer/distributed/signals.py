"""Being asked to stop: a handler sets a flag, and all ranks agree on it between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

import torch

from gazetteer.distributed.collectives import all_reduce_max
from gazetteer.records import Ranks

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
"""Slurm's pre-emption, a scheduler's or shell's end, Ctrl-C. Not SIGUSR1: NCCL uses it."""


class StopRequest:
    """Remembers whether this process was asked to stop, while its context is open.

    A second Ctrl-C does not wait for the step to end.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, ranks: Ranks) -> bool:
        """Whether any rank was asked to stop.

        Collective: every rank must call this.
        """
        flag = torch.tensor([int(self._is_set)], device=ranks.device)
        return bool(all_reduce_max(flag).item())

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self._is_set and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._is_set = True
