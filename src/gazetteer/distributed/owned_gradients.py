"""Gradients averaged over ranks, each of them kept by the one rank that needs it.

As DDP does, gradients travel while backward still computes others; unlike there, they arrive at
their owner only, and everybody else forgets them at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gazetteer.distributed.collectives import all_reduce_max
from gazetteer.distributed.ownership import Owners, buckets_by_owner, publish, views_of

MOST_ON_THE_WAY = 4
"""Buckets; before another sets off, the first of them has to arrive."""


@dataclass(slots=True)
class _Bucket:
    owner: int
    parameters: list[nn.Parameter]
    awaited: set[nn.Parameter] = field(default_factory=set)


class OwnedGradients(nn.Module):
    """A module with the same weights on every rank, whose gradients go to the weights' owners.

    Every rank sends all buckets in one order, whatever its own graph looks like: the last
    parameter's first, since that is where backward begins. Parameters that no rank used keep no
    gradient, as with DDP. Call `finish` after each backward pass.

    Collective to build: weights of rank 0 are copied to all.

    Args:
        module: calls go to it.
        owners: of the parameters whose gradients are wanted.
    """

    def __init__(self, module: nn.Module, owners: Owners) -> None:
        super().__init__()
        self.module = module
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        everything = list(module.parameters())
        publish(buckets_by_owner(everything, dict.fromkeys(everything, 0)))
        parameters = [p for p in everything if p in owners]
        self._buckets = [_Bucket(*b) for b in buckets_by_owner(parameters[::-1], owners)]
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        self._sent = 0
        self._on_the_way: deque[tuple[_Bucket, Tensor, Any]] = deque()
        self._used: set[nn.Parameter] = set()
        self._sums: dict[nn.Parameter, Tensor] = {}
        self._is_finished = False
        self._begin()
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the module's
        """Call the module."""
        if self._is_finished:
            # What earlier micro-batches of the update left: local gradients must not be added.
            self._sums = {p: p.grad for p in self._bucket_of if p.grad is not None}
            for parameter in self._sums:
                parameter.grad = None
            self._is_finished = False
        return self.module(*args, **kwargs)

    def finish(self) -> None:
        """Send what is left; then owners have gradients, of all micro-batches, and no one else.

        Collective: every rank must call this.
        """
        while self._sent < len(self._buckets):
            self._send()
        while self._on_the_way:
            self._receive()
        self._forget_unused()
        self._sums = {}
        self._is_finished = True
        self._begin()

    def _forget_unused(self) -> None:
        """Zeros that were sent for parameters which no rank has used are not gradients."""
        every = list(self._bucket_of)
        if not every:
            return
        flags = torch.tensor([p in self._used for p in every], dtype=torch.uint8)
        for parameter, is_used in zip(every, all_reduce_max(flags).tolist(), strict=True):
            if not is_used:
                parameter.grad = self._sums.get(parameter)

    def _begin(self) -> None:
        self._sent = 0
        self._used = set()
        for bucket in self._buckets:
            bucket.awaited = set(bucket.parameters)

    def _arrived(self, parameter: nn.Parameter) -> None:
        """Autograd's call when a parameter's gradient of this backward pass is complete."""
        self._bucket_of[parameter].awaited.discard(parameter)
        self._used.add(parameter)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].awaited:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        if len(self._on_the_way) == MOST_ON_THE_WAY:
            self._receive()
        bucket = self._buckets[self._sent]
        given = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket.parameters]
        # Divided before they are added, as DDP does: the same bits on two ranks.
        flat = torch.cat([gradient.reshape(-1) for gradient in given]).div_(self._world_size)
        for parameter in bucket.parameters:
            self._used |= {parameter} if parameter.grad is not None else set()
            parameter.grad = None
        work = dist.reduce(flat, bucket.owner, async_op=True)
        self._on_the_way.append((bucket, flat, work))
        self._sent += 1

    @torch.no_grad()
    def _receive(self) -> None:
        bucket, flat, work = self._on_the_way.popleft()
        work.wait()
        if bucket.owner != self._rank:
            return
        for parameter, average in zip(
            bucket.parameters, views_of(flat, bucket.parameters), strict=True
        ):
            before = self._sums.get(parameter)
            parameter.grad = average if before is None else before.add_(average)
