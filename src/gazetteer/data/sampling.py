"""Which example is read when, by whom: pure functions of a position in an endless stream.

The stream is epoch after epoch, each in its own order. A global micro-batch is a run of
consecutive positions; ranks take every world_size-th of it. So the same examples are read at the
same step for every world size, each exactly once per epoch, and a resumed run needs one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True, slots=True)
class Draw:
    """One example to read.

    Attributes:
        index: of the example, 0 .. examples - 1.
        epoch: how often the data was read before; seeds per-example randomness.
    """

    index: int
    epoch: int


@lru_cache(maxsize=2)
def epoch_order(count: int, epoch: int, seed: int, shuffle: bool) -> np.ndarray:
    """Order in which one epoch reads its examples: file order, or a seeded permutation."""
    if not shuffle:
        return np.arange(count)
    return np.random.default_rng([seed, epoch]).permutation(count)


def draw_batch(
    position: int,
    *,
    count: int,
    batch_size: int,
    rank: int,
    world_size: int,
    seed: int,
    shuffle: bool,
    limit: int | None = None,
) -> list[Draw]:
    """This rank's share of the global batch that begins at `position`.

    Args:
        position: examples read so far by all ranks together.
        count: examples in the data.
        batch_size: examples per rank.
        rank: this rank.
        world_size: number of ranks.
        seed: of the order.
        shuffle: permute each epoch.
        limit: examples that all ranks together read in the whole run; None = no end.

    Returns:
        `batch_size` draws; fewer, or none, where the limit is reached. Batches run on across the
        end of an epoch, so nothing is dropped.
    """
    stop = position + batch_size * world_size
    if limit is not None:
        stop = min(stop, limit)
    draws = []
    for place in range(position + rank, stop, world_size):
        epoch, offset = divmod(place, count)
        draws.append(Draw(int(epoch_order(count, epoch, seed, shuffle)[offset]), epoch))
    return draws


def evaluation_batches(
    count: int, *, batch_size: int, rank: int, world_size: int
) -> list[list[int]]:
    """Every example once, in order; short or empty batches at the end keep the ranks in step.

    Batch b of all ranks together is a run of consecutive examples, so results gathered batch by
    batch come in input order.
    """
    stride = batch_size * world_size
    return [
        list(range(first + rank, min(first + stride, count), world_size))
        for first in range(0, count, stride)
    ]
