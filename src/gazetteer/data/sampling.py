"""Which example is read when, by whom: pure functions of a position in an endless stream.

The stream is epoch after epoch, each in its own order. A step reads a run of consecutive positions,
in one or more passes; of each pass ranks take every world_size-th. So the same examples are read at
the same step for every world size, each exactly once per epoch, and a resumed run needs one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

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


@dataclass(frozen=True, slots=True)
class Pass:
    """What is read at once, as part of a step.

    Attributes:
        draws: of this rank; fewer than others have, or none, where it does not divide evenly.
        together: examples of all ranks.
    """

    draws: tuple[Draw, ...]
    together: int


def draw_step(
    position: int,
    *,
    count: int,
    size: int,
    passes: int = 1,
    rank: int,
    world_size: int,
    seed: int,
    shuffle: bool,
    limit: int | None = None,
) -> tuple[Pass, ...]:
    """This rank's share of the examples that a step reads, from `position` on.

    Args:
        position: examples read so far by all ranks together.
        count: examples in the data.
        size: examples of the step, of all ranks together.
        passes: in which it is read, as equal in size as can be.
        rank: this rank.
        world_size: number of ranks.
        seed: of the order.
        shuffle: permute each epoch.
        limit: examples that all ranks together read in the whole run; None = no end.

    Returns:
        `passes` passes on every rank, of `size` examples together; fewer, or none, where the limit
        is reached. Steps run on across the end of an epoch, so nothing is dropped.
    """
    stop = position + size
    if limit is not None:
        stop = max(position, min(stop, limit))
    cuts = [position + (stop - position) * part // passes for part in range(passes + 1)]

    def draw(place: int) -> Draw:
        epoch, offset = divmod(place, count)
        return Draw(int(epoch_order(count, epoch, seed, shuffle)[offset]), epoch)

    return tuple(
        Pass(tuple(draw(place) for place in range(first + rank, last, world_size)), last - first)
        for first, last in pairwise(cuts)
    )


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
