"""Processes of one start meet in a store that outlives starts, as torchrun's does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from gazetteer.distributed.meeting import ASKING, meet
from gazetteer.errors import LaunchError


@pytest.fixture
def port() -> Iterator[int]:
    store = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    yield store.port
    del store


def client(port: int) -> dist.Store:
    return dist.PrefixStore("run", dist.TCPStore("127.0.0.1", port, None, False))


def start(port: int, world_size: int, *, missing: int = 0, seconds: float = 20) -> list[dist.Store]:
    """All ranks of a start at once, but for the last `missing` ones."""

    def come(rank: int) -> dist.Store:
        timeout = timedelta(seconds=seconds)
        return meet(client(port), rank=rank, world_size=world_size, timeout=timeout)

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(come, range(world_size - missing)))


def test_a_start_sees_nothing_of_the_one_before(port: int) -> None:
    for world_size in (2, 3, 3, 1, 2):
        stores = start(port, world_size)
        assert not any(store.check(["word"]) for store in stores)
        stores[0].set("word", str(world_size))
        assert {store.get("word") for store in stores} == {str(world_size).encode()}


def test_who_asked_and_is_gone_is_not_counted(port: int) -> None:
    for name in ("gone", "lost"):
        client(port).queue_push(ASKING, name)
    with pytest.raises(LaunchError, match="only 2 of 3 ranks came"):
        start(port, 3, missing=1, seconds=1)
    assert len(start(port, 3)) == 3


def test_without_rank_0_nobody_goes_on(port: int) -> None:
    with pytest.raises(LaunchError, match="rank 0 did not come"):
        meet(client(port), rank=1, world_size=2, timeout=timedelta(seconds=0.3))
