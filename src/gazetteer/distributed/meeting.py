"""How the processes of one start come together in a store that may have outlived an earlier start.

torchrun keeps its store while it starts its workers anew, and where that is because a machine came
or left, nothing in their environment differs from the start before. So rank 0 draws a name for the
start, and tells it to each process that asks; all keys of the start begin with it.
"""

# torch documents its stores but does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from gazetteer.errors import LaunchError

ASKING, ARRIVED, COMPLETE = "asking", "arrived", "complete"
POLL_SECONDS = 0.02


def meet(store: dist.Store, *, rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Wait until every rank of this start is here.

    Args:
        store: shared by all, perhaps with processes of earlier starts that are gone.
        rank: of this process.
        world_size: number of processes.
        timeout: to wait for the others.

    Returns:
        The same store, with keys that nothing else has.

    Raises:
        LaunchError: not all came in time.
    """
    if rank == 0:
        return _welcome(store, world_size, timeout)
    own_name = secrets.token_hex(8)
    store.queue_push(ASKING, own_name)
    try:
        store.wait([own_name], timeout)
    except dist.DistStoreError:
        raise LaunchError("rank 0 did not come") from None
    keys = dist.PrefixStore(store.get(own_name).decode(), store)
    keys.add(ARRIVED, 1)
    try:
        keys.wait([COMPLETE], timeout)
    except dist.DistStoreError:
        raise _missing(keys, world_size) from None
    return keys


def _welcome(store: dist.Store, world_size: int, timeout: timedelta) -> dist.Store:
    """On rank 0: tell the start's name to all who ask, those who are gone already included."""
    name = secrets.token_hex(8)
    keys, deadline = dist.PrefixStore(name, store), time.monotonic() + timeout.total_seconds()
    while keys.add(ARRIVED, 0) < world_size - 1:
        try:
            store.set(store.queue_pop(ASKING, False).decode(), name)
        except dist.QueueEmptyError:
            if time.monotonic() > deadline:
                raise _missing(keys, world_size) from None
            time.sleep(POLL_SECONDS)
    keys.set(COMPLETE, "yes")
    return keys


def _missing(keys: dist.Store, world_size: int) -> LaunchError:
    return LaunchError(f"only {keys.add(ARRIVED, 0) + 1} of {world_size} ranks came")
