"""Processes set aside from training: what rank 0 and they tell each other, and whether both live.

They take part in no collective. What little is said goes through the store where all processes
met, by a thread on either side, so that nobody waits while the other works. Who is not heard of
for as long as a collective may take is given up.
"""

# torch documents its stores but does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from gazetteer.distributed.watch import host_name
from gazetteer.errors import GazetteerError, LaunchError, PeerLostError
from gazetteer.records import Ranks

BEAT_SECONDS = 0.2
GOODBYE_SECONDS = 10.0
"""How long rank 0 keeps the store open for the others to read that the run is over."""
TRAINERS, END, LEFT = "trainers", "end", "left"


class Overseer:
    """Rank 0's end: gives orders to the processes set aside, and notices when one is lost.

    Args:
        store: where all processes met.
        workers: processes set aside.
        patience_seconds: of silence, after which one is lost.
    """

    def __init__(self, store: dist.Store, workers: int, patience_seconds: float) -> None:
        self.workers = workers
        self._store = store
        self._patience = patience_seconds
        self._orders = 0
        self._heard = [_LastHeard() for _ in range(workers)]
        self._hosts: dict[int, str] = {}
        self._failure: LaunchError | None = None
        self._thread = _Repeating(self._listen)

    def order(self, text: str) -> None:
        """Give all of them an order; those given before are carried out first.

        Raises:
            PeerLostError: the store is gone.
        """
        try:
            self._store.set(_order_key(self._orders), text)
        except RuntimeError as error:
            reason = _first_line(error)
            raise PeerLostError(f"no order can be given any more ({reason})") from None
        self._orders += 1

    def problem(self) -> LaunchError | None:
        """Why no order will be carried out any more; None while all live."""
        if self._failure is not None:
            return self._failure
        for worker, heard in enumerate(self._heard):
            if heard.silent_seconds > self._patience:
                return PeerLostError(
                    f"{self._name(worker)} was not heard of for {self._patience:.0f} s "
                    "(--collective_timeout_seconds)"
                )
        return None

    def close(self) -> None:
        """Tell them that the run is over, and wait a little until they know."""
        with suppress(RuntimeError):
            self._store.set(END, "yes")
            deadline = time.monotonic() + GOODBYE_SECONDS
            while self._store.add(LEFT, 0) < self.workers and time.monotonic() < deadline:
                if self._failure is not None:
                    break
                time.sleep(BEAT_SECONDS / 10)
        self._thread.stop()

    def _listen(self) -> bool:
        try:
            self._store.add(TRAINERS, 1)
            for worker, heard in enumerate(self._heard):
                heard.note(self._store.add(_beat_key(worker), 0))
                # Later, when it is asked for, the store may not answer.
                if worker not in self._hosts and self._store.check([_host_key(worker)]):
                    self._hosts[worker] = self._store.get(_host_key(worker)).decode()
                if self._store.check([_failure_key(worker)]):
                    reason = self._store.get(_failure_key(worker)).decode()
                    self._failure = LaunchError(f"{self._name(worker)} failed: {reason}")
        except RuntimeError as error:
            reason = _first_line(error)
            self._failure = PeerLostError(f"the embedding workers are out of reach ({reason})")
        return True

    def _name(self, worker: int) -> str:
        place = f" on {self._hosts[worker]}" if worker in self._hosts else ""
        return f"embedding worker {worker} of {self.workers}{place} (--refresh_workers)"


class Helper:
    """The end of a process set aside: receives orders, and notices when the trainers are gone.

    Args:
        store: where all processes met.
        worker: number of this process among those set aside.
        patience_seconds: of silence, after which the trainers are lost.
    """

    def __init__(self, store: dist.Store, worker: int, patience_seconds: float) -> None:
        self._store = store
        self._worker = worker
        self._patience = patience_seconds
        self._received = 0
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._heard = _LastHeard()
        self._is_over = False
        self._lost: str | None = None
        store.set(_host_key(worker), host_name(os.environ))
        self._thread = _Repeating(self._listen)

    def next_order(self) -> str | None:
        """Wait for an order; None once the run is over.

        Raises:
            PeerLostError: the trainers are gone.
        """
        while not self.is_over():
            with suppress(queue.Empty):
                return self._orders.get(timeout=BEAT_SECONDS)
        return None

    def is_over(self) -> bool:
        """Whether the run has ended.

        Raises:
            PeerLostError: the trainers are gone, without a word or without reach.
        """
        if self._is_over:
            return True
        if self._lost is None and self._heard.silent_seconds > self._patience:
            self._lost = f"no sign for {self._patience:.0f} s, --collective_timeout_seconds"
        if self._lost is not None:
            raise PeerLostError(
                f"embedding worker {self._worker}: the trainers are gone ({self._lost})"
            )
        return False

    def fail(self, reason: str) -> None:
        """Tell the trainers that this process ends, and why, if they can still be told."""
        self._thread.stop()
        with suppress(RuntimeError):
            self._store.set(_failure_key(self._worker), reason)

    def close(self) -> None:
        """Fall silent."""
        self._thread.stop()

    def _listen(self) -> bool:
        try:
            self._store.add(_beat_key(self._worker), 1)
            self._heard.note(self._store.add(TRAINERS, 0))
            while self._store.check([_order_key(self._received)]):
                self._orders.put(self._store.get(_order_key(self._received)).decode())
                self._received += 1
            if self._store.check([END]):
                self._is_over = True
                self._store.add(LEFT, 1)
        except RuntimeError as error:
            self._lost = _first_line(error)
        return not self._is_over and self._lost is None


class _LastHeard:
    """When a counter last moved, by this process's own clock: clocks of machines differ."""

    def __init__(self) -> None:
        self._count = -1
        self._at = time.monotonic()

    def note(self, count: int) -> None:
        if count != self._count:
            self._count, self._at = count, time.monotonic()

    @property
    def silent_seconds(self) -> float:
        return time.monotonic() - self._at


class _Repeating:
    """A thread that does something every `BEAT_SECONDS`, until stopped or until it returns False.

    A daemon: a store that does not answer any more keeps no process from ending.
    """

    def __init__(self, work: Callable[[], bool]) -> None:
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=GOODBYE_SECONDS)

    def _run(self) -> None:
        while self._work() and not self._stop.wait(BEAT_SECONDS):
            pass


_current: Overseer | Helper | None = None


@contextmanager
def in_touch(store: dist.Store, ranks: Ranks, patience_seconds: float) -> Iterator[None]:
    """Keep rank 0 and the processes set aside in touch; nothing where there are none of these.

    Args:
        store: where all processes met.
        ranks: this process among its peers.
        patience_seconds: of silence, after which a process is lost.
    """
    global _current
    if ranks.is_set_aside:
        _current = helper = Helper(store, ranks.rank, patience_seconds)
        try:
            yield
        except BaseException as error:
            helper.fail(_describe(error))
            raise
        finally:
            _current = None
            helper.close()
    elif ranks.is_main and ranks.set_aside:
        _current = overseer = Overseer(store, ranks.set_aside, patience_seconds)
        try:
            yield
        finally:
            _current = None
            overseer.close()
    else:
        yield


def current_overseer() -> Overseer | None:
    """Rank 0's end while processes are set aside; None on other ranks."""
    return _current if isinstance(_current, Overseer) else None


def current_helper() -> Helper:
    """The end of this process, which is set aside."""
    assert isinstance(_current, Helper)
    return _current


def _describe(error: BaseException) -> str:
    text = str(error) if isinstance(error, GazetteerError) else f"{type(error).__name__}: {error}"
    return text.partition("\n")[0]


def _order_key(number: int) -> str:
    return f"order/{number}"


def _beat_key(worker: int) -> str:
    return f"beat/{worker}"


def _host_key(worker: int) -> str:
    return f"beat_host/{worker}"


def _failure_key(worker: int) -> str:
    return f"failure/{worker}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
