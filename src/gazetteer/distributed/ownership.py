"""Which worker updates which parameter, where optimiser state is spread over them."""

# torch documents its foreach functions but does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

Owners = Mapping[nn.Parameter, int]
"""The rank that updates each parameter; the same on every rank."""

BUCKET_BYTES = 25 * 2**20
"""So much travels at once: many small tensors one by one would wait for the network."""


def assign_owners(
    models: Iterable[Iterable[nn.Parameter]], world_size: int
) -> dict[nn.Parameter, int]:
    """Give every parameter that learns to one rank, so that each has about as much of every model.

    Parameters are never cut: a rank has at most its share and one parameter more.

    Args:
        models: parameters of each.
        world_size: number of ranks.
    """
    owners: dict[nn.Parameter, int] = {}
    for parameters in models:
        learning = [p for p in parameters if p.requires_grad]
        owners |= zip(
            learning, _even_ranges([p.numel() for p in learning], world_size), strict=True
        )
    return owners


def owned_here(parameter: nn.Parameter, owners: Owners) -> bool:
    """Whether this rank updates a parameter."""
    return owners[parameter] == dist.get_rank()


def _even_ranges(sizes: Sequence[int], parts: int) -> Iterator[int]:
    """The part of each size, parts in order and of about equal sums."""
    total, before = max(1, sum(sizes)), 0
    for size in sizes:
        # By its middle: a rank gets no parameter of which most would be another's.
        yield min(parts - 1, (2 * before + size) * parts // (2 * total))
        before += size


def buckets_by_owner(
    parameters: Sequence[nn.Parameter], owners: Owners
) -> list[tuple[int, list[nn.Parameter]]]:
    """Cut parameters, in their order, into runs of one owner, dtype and device, of limited size."""
    buckets: list[tuple[int, list[nn.Parameter]]] = []
    kind, held = None, 0
    for parameter in parameters:
        found = owners[parameter], parameter.dtype, parameter.device
        size = parameter.numel() * parameter.element_size()
        if found != kind or held + size > BUCKET_BYTES:
            buckets.append((owners[parameter], []))
            kind, held = found, 0
        buckets[-1][1].append(parameter)
        held += size
    return buckets


@torch.no_grad()
def publish(buckets: Iterable[tuple[int, list[nn.Parameter]]]) -> None:
    """Give every rank the parameters as their owners have them.

    Collective: every rank must call this, with the same buckets.
    """
    for owner, parameters in buckets:
        # A function of its own, at whose end a bucket is gone before the next is made.
        _broadcast(owner, parameters)


def _broadcast(owner: int, parameters: Sequence[nn.Parameter]) -> None:
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    dist.broadcast(flat, owner)
    if dist.get_rank() != owner:
        torch._foreach_copy_(list(parameters), views_of(flat, parameters))


def views_of(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a flat tensor, in the shapes of `like`."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
