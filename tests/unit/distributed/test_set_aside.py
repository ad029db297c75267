"""Rank 0 and the processes set aside, over stores of one process."""

# torch documents its stores but does not export them.
# pyright: reportPrivateImportUsage=false

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
import torch.distributed as dist

from gazetteer.distributed import set_aside
from gazetteer.distributed.set_aside import Helper, Overseer, current_overseer, in_touch
from gazetteer.errors import TRY_AGAIN, IndexFileError, PeerLostError
from gazetteer.records import Ranks


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(set_aside, "GOODBYE_SECONDS", 1.0)
    monkeypatch.setenv("SLURMD_NODENAME", "n7")


@contextmanager
def ends(workers: int = 2, patience: float = 20.0) -> Iterator[tuple[Overseer, list[Helper]]]:
    store = dist.HashStore()
    overseer = Overseer(store, workers, patience)
    helpers = [Helper(store, worker, patience) for worker in range(workers)]
    try:
        yield overseer, helpers
    finally:
        overseer.close()
        for helper in helpers:
            helper.close()


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def test_every_process_hears_every_order_in_turn() -> None:
    with ends() as (overseer, helpers):
        for text in ("first", "second"):
            overseer.order(text)
        for helper in helpers:
            assert [helper.next_order(), helper.next_order()] == ["first", "second"]
        assert overseer.problem() is None


def test_the_end_is_heard_before_rank_0_leaves() -> None:
    with ends() as (overseer, helpers):
        start = time.monotonic()
        overseer.close()
        assert time.monotonic() - start < 0.9  # Not the whole goodbye.
        assert all(helper.is_over() for helper in helpers)
        assert [helper.next_order() for helper in helpers] == [None, None]


def test_rank_0_does_not_wait_for_ever_for_one_that_is_lost() -> None:
    with ends() as (overseer, helpers):
        helpers[1].close()
        start = time.monotonic()
        overseer.close()
        assert 0.5 < time.monotonic() - start < 5


def test_a_process_that_fails_says_why() -> None:
    with ends() as (overseer, helpers):
        helpers[1].fail("no memory")
        assert eventually(lambda: overseer.problem() is not None)
        problem = overseer.problem()
        assert str(problem) == "embedding worker 1 of 2 on n7 (--refresh_workers) failed: no memory"
        assert problem is not None and problem.exit_code == 2


def test_a_process_that_falls_silent_is_given_up() -> None:
    with ends(patience=0.5) as (overseer, helpers):
        time.sleep(0.7)
        assert overseer.problem() is None  # Both are heard of all the time.
        helpers[0].close()
        assert eventually(lambda: overseer.problem() is not None)
        problem = overseer.problem()
        assert "embedding worker 0 of 2 on n7 (--refresh_workers) was not" in str(problem)
        assert problem is not None and problem.exit_code == TRY_AGAIN


def test_trainers_that_fall_silent_are_given_up() -> None:
    with ends(patience=0.5) as (overseer, helpers):
        overseer._thread.stop()
        with pytest.raises(PeerLostError, match="embedding worker 1: the trainers are gone"):
            helpers[1].next_order()


def test_a_store_that_goes_with_rank_0_ends_the_waiting() -> None:
    def open_store(port: int, *, is_master: bool) -> dist.TCPStore:
        return dist.TCPStore(
            "127.0.0.1", port, is_master=is_master, timeout=timedelta(seconds=5),
            wait_for_workers=False,
        )  # fmt: skip

    served = open_store(0, is_master=True)
    helper = Helper(open_store(served.port, is_master=False), 0, patience_seconds=60)
    assert not helper.is_over()
    del served
    with pytest.raises(PeerLostError, match="the trainers are gone"):
        helper.next_order()
    helper.close()


def test_ends_are_opened_where_they_belong() -> None:
    store = dist.HashStore()
    with in_touch(store, Ranks(), 5):
        assert current_overseer() is None
    with in_touch(store, Ranks(rank=1, world_size=2, set_aside=1), 5):
        assert current_overseer() is None
    with in_touch(store, Ranks(world_size=2, set_aside=1), 5):
        overseer = current_overseer()
        assert overseer is not None
        with (
            pytest.raises(IndexFileError),
            in_touch(store, Ranks(set_aside=1, is_set_aside=True), 5),
        ):
            raise IndexFileError("the disk is full\nand more")
        assert eventually(lambda: overseer.problem() is not None)
        assert str(overseer.problem()).endswith("failed: the disk is full")
    assert current_overseer() is None


def test_a_process_set_aside_is_never_the_main_one() -> None:
    assert Ranks().is_main and not Ranks(is_set_aside=True).is_main
