"""The few ways in which ranks talk. On one rank each of them is a plain function.

Only tensors travel: text goes as bytes, never as pickles. Every function here is collective:
every rank must call it, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_apart = False


@contextmanager
def apart() -> Iterator[None]:
    """Within, this rank is alone, whatever process group there is: for a step that is tried out."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def is_alone() -> bool:
    """True when there is no process group, or only this rank in it."""
    return _apart or not dist.is_initialized() or dist.get_world_size() == 1


def barrier() -> None:
    """Wait until every rank is here. Collective."""
    if not is_alone():
        all_reduce_sum(torch.zeros(1))


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks, same shape and dtype on each. Collective; no gradient."""
    return _reduce(tensor, dist.ReduceOp.SUM)


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over ranks. Collective; no gradient."""
    return _reduce(tensor, dist.ReduceOp.MAX)


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Mean over ranks of a floating-point tensor. Collective; no gradient."""
    return tensor if is_alone() else all_reduce_sum(tensor) / dist.get_world_size()


def all_gather_rows(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """Concatenate the rows of all ranks, in order of rank. Collective; no gradient.

    Two collectives whatever the sizes: the sizes, then the padded rows (gloo cannot gather uneven
    tensors).

    Args:
        tensor: any number of rows, zero included; other dimensions and dtype equal on all ranks.

    Returns:
        All rows, and how many came from each rank.
    """
    if is_alone():
        return tensor, [len(tensor)]
    counts = _gather_equal(torch.tensor([len(tensor)])).tolist()
    widest = max(counts)
    padded = tensor.new_zeros(widest, *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = _gather_equal(padded).view(len(counts), widest, *tensor.shape[1:])
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]), counts


def all_gather_rows_with_gradient(tensor: Tensor) -> tuple[Tensor, int]:
    """Concatenate the rows of all ranks as `all_gather_rows` does, with gradient. Collective.

    Backward is collective, too: each rank's rows get the sum of the gradients that all ranks have
    for them. So a rank without rows must pass an empty tensor that needs a gradient where those of
    the others do, or they wait for it in vain.

    Returns:
        All rows, and at which of them this rank's own begin.
    """
    if is_alone():
        return tensor, 0
    start: list[int] = []
    rows = _GatherRows.apply(tensor, start)
    return rows, start[0]  # type: ignore[return-value]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, start: list[int]) -> Tensor:  # noqa: ANN401 - torch's
        rows, counts = all_gather_rows(tensor)
        start.append(sum(counts[: dist.get_rank()]))
        ctx.own = slice(start[0], start[0] + len(tensor))
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (gradient,) = gradients
        return all_reduce_sum(gradient)[ctx.own], None


def exchange_rows(tensor: Tensor, send: list[int], receive: list[int]) -> Tensor:
    """Send the first send[0] rows to rank 0, the next send[1] to rank 1, ... Collective.

    Args:
        tensor: sum(send) rows.
        send: rows for each rank.
        receive: rows from each rank; receive[r] here equals send[this rank] there.

    Returns:
        sum(receive) rows, in order of rank. No gradient.
    """
    if is_alone():
        return tensor
    sent = tensor.detach().contiguous().to(_device())
    result = sent.new_empty(sum(receive), *sent.shape[1:])
    dist.all_to_all_single(result, sent, receive, send)
    return result.to(tensor.device)


def broadcast_bytes(data: bytes | None) -> bytes:
    """Give rank 0's bytes to every rank. Collective."""
    if is_alone():
        return data or b""
    device = _device()
    size = torch.tensor([len(data or b"")], device=device)
    dist.broadcast(size, 0)
    payload = _as_tensor(data or b"", device)
    if dist.get_rank() != 0:
        payload = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(payload, 0)
    return payload.cpu().numpy().tobytes()


def gather_bytes(data: bytes) -> list[bytes] | None:
    """Bring every rank's bytes to rank 0, in order of rank; None elsewhere. Collective."""
    if is_alone():
        return [data]
    device = _device()
    lengths = _gather_equal(torch.tensor([len(data)])).tolist()
    is_target = dist.get_rank() == 0
    send = [len(data)] + [0] * (len(lengths) - 1)
    received = exchange_rows(
        _as_tensor(data, device), send, lengths if is_target else [0] * len(lengths)
    )
    if not is_target:
        return None
    everything = received.cpu().numpy().tobytes()
    parts, start = [], 0
    for length in lengths:
        parts.append(everything[start : start + length])
        start += length
    return parts


def _reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if is_alone():
        return tensor
    result = tensor.detach().clone().to(_device())
    dist.all_reduce(result, operation)
    return result.to(tensor.device)


def _gather_equal(tensor: Tensor) -> Tensor:
    """Concatenate tensors of equal shape along the first dimension."""
    mine = tensor.detach().contiguous().to(_device())
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return torch.cat(parts).to(tensor.device)


def _as_tensor(data: bytes, device: torch.device) -> Tensor:
    if not data:
        return torch.empty(0, dtype=torch.uint8, device=device)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)


def _device() -> torch.device:
    """Where collectives of this group work: NCCL only on the GPU."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
