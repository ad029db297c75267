"""Whether all workers live. One whose peers are gone ends, and says whose: rank and machine.

A collective that waits for a dead worker fails at once (its connection is closed) or at its
timeout (a cut cable, a machine without power), with a message that names neither. So each worker
says that it lives to the store where all met, by a thread: rank 0 watches all, all watch rank 0.
After a failed collective, `who_is_lost` asks that thread. And where the main thread is stuck in
what never fails, a second thread ends the process. Both forgive a process that slept itself.
"""

# torch documents its stores but does not export them.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch.distributed as dist

from gazetteer.errors import TRY_AGAIN, GazetteerError, PeerLostError
from gazetteer.records import Ranks

BEAT_SECONDS = 0.5
SUSPICION_SECONDS = 4.0
"""Silence of a worker that is called lost once a collective has failed: eight beats."""
VERDICT_SECONDS = 8.0
"""How long rank 0 may take to find the lost one."""
GRACE_SECONDS = 10.0
"""From a loss, or its verdict, to the end of a process that does not leave by itself."""
SLEEP_SECONDS = 3.0
"""Between two beats: this process was suspended itself, and knows nothing of the others."""
GOODBYE_SECONDS = 5.0
"""How long rank 0 keeps the store open for the others."""
ALARM, VERDICT = "alarm", "verdict"


@contextmanager
def watched(store: dist.Store, ranks: Ranks, patience_seconds: float) -> Iterator[None]:
    """Watch the other workers meanwhile, and give an error of theirs its name.

    Args:
        store: where all met.
        ranks: this process among its peers.
        patience_seconds: of silence, after which one is lost.

    Raises:
        PeerLostError: in place of what a collective says when a worker is gone or has failed.
    """
    if ranks.world_size == 1:
        yield
        return
    watch = PeerWatch(store, ranks.rank, ranks.world_size, patience_seconds)
    try:
        yield
    except BaseException as error:
        loss = watch.who_is_lost() if failed_together(error) else None
        if loss is not None:
            watch.stop()
            raise loss.error() from None
        if not (isinstance(error, GazetteerError) and error.is_shared):
            watch.tell(error)
        watch.stop()
        raise
    watch.leave()


@dataclass(frozen=True, slots=True)
class Loss:
    """Why the workers cannot go on.

    Attributes:
        text: one line, with rank and machine.
        exit_code: for those who are left: 75 for a worker that is gone without a word; its own for
            one that failed with an error, which the same command would meet again.
    """

    text: str
    exit_code: int = TRY_AGAIN

    def error(self) -> PeerLostError:
        """To raise in the main thread."""
        error = PeerLostError(self.text)
        error.exit_code = self.exit_code
        return error


class PeerWatch:
    """One worker's part. Its threads are daemons: a store that hangs keeps no process.

    Args:
        store: where all met; each watch has a connection of its own, as one waits for its answer.
        rank: of this worker.
        world_size: number of workers.
        patience_seconds: of silence, after which a worker is lost though no collective failed.
        end: of the process when the main thread is stuck; tests replace it.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        world_size: int,
        patience_seconds: float,
        end: Callable[[Loss], None] | None = None,
    ) -> None:
        self._store: dist.Store = store.clone()  # pyright: ignore[reportAttributeAccessIssue]
        self._rank = rank
        self._peers = [peer for peer in range(world_size) if peer != rank]
        self._watched = self._peers if rank == 0 else [0]
        self._patience = patience_seconds
        self._end = end or _end_process
        self._alarm = threading.Event()
        self._stopped = threading.Event()
        self._found: Loss | None = None
        # The store must say now where the others are: later it may be gone.
        self._store.set(_host_key(rank), host_name(os.environ))
        hosts = self._store.multi_get([_host_key(peer) for peer in self._watched])
        self._hosts = dict(zip(self._watched, (host.decode() for host in hosts), strict=True))
        self._heard = dict.fromkeys(self._watched, time.monotonic())
        self._counts = dict.fromkeys(self._watched, -1)
        self._answered = time.monotonic()
        works = (self._beat, self._guard)
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()

    def who_is_lost(self) -> Loss | None:
        """After a failed collective: who is to blame. None if all others live.

        Not a collective. Takes a few seconds: the dead one has to be seen silent.
        """
        self._alarm.set()
        deadline = time.monotonic() + VERDICT_SECONDS
        while time.monotonic() < deadline and self._found is None:
            time.sleep(BEAT_SECONDS / 5)
        return self._found

    def tell(self, error: BaseException) -> None:
        """Say why this worker fails, so that the others need not guess."""
        reason, code = f"{type(error).__name__}: {error}".partition("\n")[0], 1
        if isinstance(error, GazetteerError):
            reason, code = str(error).partition("\n")[0], error.exit_code
        elif not isinstance(error, Exception):
            code = TRY_AGAIN  # Asked to leave: by a keyboard, or a scheduler.
        if self._rank == 0:
            name = f"rank 0 on {host_name(os.environ)}"
            self._pronounce(Loss(f"{name} failed: {reason}", code))
            time.sleep(3 * BEAT_SECONDS)  # The store may end with this process.
            return
        with suppress(RuntimeError):
            self._store.set(_failure_key(self._rank), json.dumps([reason, code]))
            self._store.set(ALARM, "yes")

    def leave(self) -> None:
        """The run is over, for all: rank 0 waits for the others, whose store it may keep."""
        self.stop()
        for thread in self._threads:
            thread.join(timeout=GOODBYE_SECONDS)
        with suppress(RuntimeError):
            # Setting is not answered: nobody waits for a store that then ends.
            self._store.set(_left_key(self._rank), "yes")
            keys = [_left_key(peer) for peer in self._peers]
            deadline = time.monotonic() + GOODBYE_SECONDS
            while self._rank == 0 and not self._store.check(keys) and time.monotonic() < deadline:
                time.sleep(0.01)

    def stop(self) -> None:
        """Fall silent: this process is about to end."""
        self._stopped.set()

    def _beat(self) -> None:
        """Say that this worker lives, and hear who else does; a store that is gone is silence."""
        last = time.monotonic()
        while not self._stopped.is_set() and self._found is None:
            if time.monotonic() - last > SLEEP_SECONDS:
                self._heard = dict.fromkeys(self._watched, time.monotonic())
            last = time.monotonic()
            with suppress(RuntimeError):
                self._exchange()
                self._answered = time.monotonic()
            self._judge()
            self._stopped.wait(BEAT_SECONDS)

    def _exchange(self) -> None:
        self._store.add(_beat_key(self._rank), 1)
        if self._alarm.is_set():
            self._store.set(ALARM, "yes")
        elif self._store.check([ALARM]):
            self._alarm.set()
        if self._store.check([VERDICT]):
            text, code = json.loads(self._store.get(VERDICT))
            self._found = Loss(text, code)
            return
        for peer in self._watched:
            # Adding nothing reads the number, whether or not it is there yet.
            count = self._store.add(_beat_key(peer), 0)
            if count != self._counts[peer]:
                self._counts[peer], self._heard[peer] = count, time.monotonic()
        if self._rank == 0 and self._alarm.is_set():
            self._read_failures()

    def _read_failures(self) -> None:
        for peer in self._watched:
            if self._store.check([_failure_key(peer)]):
                reason, code = json.loads(self._store.get(_failure_key(peer)))
                self._pronounce(Loss(f"{self._name(peer)} failed: {reason}", code))
                return

    def _judge(self) -> None:
        """Find the longest silent of the watched, if it is silent for too long."""
        limit = SUSPICION_SECONDS if self._alarm.is_set() else self._patience
        silent = {peer: time.monotonic() - heard for peer, heard in self._heard.items()}
        if self._rank == 0 and time.monotonic() - self._answered > BEAT_SECONDS:
            return  # The store did not answer: nothing is known of anybody.
        lost = max(silent, key=silent.__getitem__)
        if self._found is None and silent[lost] > limit:
            self._pronounce(Loss(f"{self._name(lost)} was not heard of for {silent[lost]:.0f} s"))

    def _pronounce(self, loss: Loss) -> None:
        self._found = loss
        if self._rank == 0:
            with suppress(RuntimeError):
                self._store.set(VERDICT, json.dumps([loss.text, loss.exit_code]))

    def _guard(self) -> None:
        """End the process when the others are lost and its main thread does not notice.

        A thread apart: the one that talks to the store may itself hang on a cut cable.
        """
        last = time.monotonic()
        while not self._stopped.wait(BEAT_SECONDS):
            if time.monotonic() - last > SLEEP_SECONDS:
                self._answered = time.monotonic()
            last = time.monotonic()
            silent = time.monotonic() - self._answered
            limit = SUSPICION_SECONDS if self._alarm.is_set() else self._patience
            if self._found is None and silent > limit:
                self._found = Loss(f"{self._store_name()} was not heard of for {silent:.0f} s")
            if self._found is not None and not self._stopped.wait(GRACE_SECONDS):
                self._end(self._found)
                return

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self._hosts[rank]}"

    def _store_name(self) -> str:
        return "the store of the run" if self._rank == 0 else f"{self._name(0)}, with the store,"


def host_name(environment: Mapping[str, str]) -> str:
    """This machine, as its scheduler calls it."""
    return environment.get("SLURMD_NODENAME") or socket.gethostname()


def failed_together(error: BaseException) -> bool:
    """Whether an error may come from a collective rather than from this worker itself."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "nccl", "connection", "timed out", "timeout", "store")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _end_process(loss: Loss) -> None:
    # One write: the lines of several processes do not mix. No clean-up: that is what hangs.
    os.write(sys.stderr.fileno(), f"error: {loss.text}; this process ends\n".encode())
    os._exit(loss.exit_code)


def _host_key(rank: int) -> str:
    return f"host/{rank}"


def _beat_key(rank: int) -> str:
    return f"peer/{rank}"


def _failure_key(rank: int) -> str:
    return f"peer_failure/{rank}"


def _left_key(rank: int) -> str:
    return f"peer_left/{rank}"
