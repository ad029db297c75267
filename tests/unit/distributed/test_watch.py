"""Workers that watch each other, over a store in one process."""

# torch documents its stores but does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch.distributed as dist

from gazetteer.distributed import watch
from gazetteer.distributed.watch import Loss, PeerWatch, failed_together, host_name
from gazetteer.errors import DataError, IndexFileError


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.02, "SUSPICION": 0.4, "VERDICT": 2.0, "GRACE": 0.3}.items():
        monkeypatch.setattr(watch, f"{name}_SECONDS", seconds)


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[PeerWatch]]]:
    """Watches of several ranks, at machines n0, n1, ...; none outlives the test."""
    made: list[PeerWatch] = []
    local = threading.local()
    monkeypatch.setattr(watch, "host_name", lambda _: local.name)

    def ranks(count: int, patience: float = 20.0, ends: list[Loss] | None = None) -> list:
        store = dist.HashStore()
        found: dict[int, PeerWatch] = {}
        ended: list[Loss] = [] if ends is None else ends

        def join(rank: int) -> None:
            local.name = f"n{rank}"
            found[rank] = PeerWatch(store, rank, count, patience, ended.append)

        threads = [threading.Thread(target=join, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        made.extend(found.values())
        local.name = "n0"
        return [found[rank] for rank in range(count)]

    yield ranks
    for each in made:
        each.stop()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_the_silent_one_is_named_to_all_others(meet, lost: int) -> None:
    ranks = meet(3)
    ranks.pop(lost).stop()
    for left in ranks:
        loss = left.who_is_lost()
        assert loss is not None and loss.exit_code == 75
        assert loss.text.startswith(f"rank {lost} on n{lost} was not heard of for ")


def test_nobody_is_blamed_while_all_live(meet) -> None:
    ranks = meet(3)
    assert ranks[1].who_is_lost() is None
    assert ranks[0].who_is_lost() is None


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (DataError("f.jsonl:1: no text"), "f.jsonl:1: no text", 2),
        (ValueError("odd\nmore"), "ValueError: odd", 1),
        (KeyboardInterrupt(), "KeyboardInterrupt: ", 75),
    ],
)
@pytest.mark.parametrize("failed", [0, 2])
def test_who_fails_with_an_error_passes_it_on(meet, failed, error, reason, code) -> None:
    ranks = meet(3)
    teller = ranks.pop(failed)
    teller.tell(error)
    teller.stop()
    for left in ranks:
        assert left.who_is_lost() == Loss(f"rank {failed} on n{failed} failed: {reason}", code)


def test_a_stuck_process_is_ended_once_its_peers_are_lost(meet) -> None:
    ends: list[Loss] = []
    ranks = meet(2, patience=0.5, ends=ends)
    ranks[1].stop()
    deadline = time.monotonic() + 5
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)
    (loss,) = ends
    assert loss.text.startswith("rank 1 on n1 was not heard of for ") and loss.exit_code == 75


class HangingStore:
    """A store behind a cut cable: what is asked of it is never answered."""

    def __init__(self) -> None:
        self.store, self.is_cut = dist.HashStore(), threading.Event()

    def clone(self) -> HangingStore:
        return self

    def __getattr__(self, name: str):
        def ask(*words):
            if self.is_cut.is_set():
                time.sleep(60)
            return getattr(self.store, name)(*words)

        return ask


def test_a_store_that_hangs_is_noticed_as_well() -> None:
    ends: list[Loss] = []
    store = HangingStore()
    store.store.set("host/0", "n0")
    far = PeerWatch(store, 1, 2, 0.5, ends.append)  # type: ignore[arg-type]
    time.sleep(0.1)
    store.is_cut.set()
    loss = far.who_is_lost()
    assert loss is not None
    assert loss.text.startswith("rank 0 on n0, with the store, was not heard of for ")
    far.stop()


def test_leaving_together_leaves_no_alarm(meet) -> None:
    ranks = meet(3, patience=0.5)
    threads = [threading.Thread(target=each.leave) for each in ranks]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert time.monotonic() - begin < 2  # Not the whole goodbye.


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:537] Connection closed by peer"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (dist.DistBackendError("NCCL error"), True),
        (RuntimeError("shapes (2, 3) and (4) do not fit"), False),
        (ValueError("gloo"), False),
        (IndexFileError("store of vectors"), False),
    ],
)
def test_errors_of_collectives_are_told_from_others(error: Exception, expected: bool) -> None:
    assert failed_together(error) is expected


def test_a_machine_has_the_scheduler_s_name() -> None:
    assert host_name({"SLURMD_NODENAME": "n2"}) == "n2"
    assert host_name({})
