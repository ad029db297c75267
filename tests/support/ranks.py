"""Run a function on several gloo ranks, as a test."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import pickle
import queue
import random
import socket
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_on_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_seconds: float = 120,
    set_aside: int = 0,
) -> list[Any]:
    """Call `function(ranks, *args)` on every rank and return the results in order of rank.

    Warnings are errors there, as in any other test. The processes are those of the call before,
    where there was one, with this one's folder and environment: loading torch takes each of them
    seconds. So what a function changes in a module it has to put back.

    Args:
        function: defined at module level, so that another process can import it.
        world_size: number of processes.
        args: passed on; must be picklable, as the results.
        timeout_seconds: after which all are ended and the test fails.
        set_aside: so many of the processes take no part in collectives; they come last.

    Raises:
        AssertionError: with the traceback of the first rank that failed, or of nobody on a
            time-out.
    """
    if _POOL.world_size < world_size:
        _POOL.grow(world_size)
    try:
        return _POOL.call(function, world_size, args, set_aside, timeout_seconds)
    except BaseException:
        _POOL.end()  # Others may wait for the one that failed.
        raise


def run_in_legs(
    function: Callable[..., Any],
    sizes: Sequence[int],
    *args: Any,
    timeout_seconds: float = 120,
) -> list[list[Any]]:
    """Call `function(ranks, leg, *args)` on sizes[0] ranks, then on sizes[1], ...

    Args:
        function: as for `run_on_ranks`.
        sizes: numbers of ranks.
        args: passed on.
        timeout_seconds: of each leg.

    Returns:
        What each rank of each leg returned.
    """
    if _POOL.world_size < max(sizes):
        _POOL.grow(max(sizes))
    return [
        run_on_ranks(function, size, leg, *args, timeout_seconds=timeout_seconds)
        for leg, size in enumerate(sizes)
    ]


class _Pool:
    """Processes that wait for calls. Empty until it is asked to grow, and when it was ended."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._context = multiprocessing.get_context("spawn")
        self._results = self._context.Queue()
        self._tasks: list[SimpleQueue] = []
        self._processes: list[BaseProcess] = []

    @property
    def world_size(self) -> int:
        return len(self._processes)

    def grow(self, world_size: int) -> None:
        for rank in range(len(self._processes), world_size):
            tasks = self._context.SimpleQueue()
            target = (rank, tasks, self._results)
            process = self._context.Process(target=_serve, args=target, daemon=True)
            process.start()
            self._tasks.append(tasks)
            self._processes.append(process)

    def end(self) -> None:
        if self._owner != os.getpid():
            return  # A fork of the process of the tests, at its own end.
        for process in self._processes:
            process.kill()
            process.join()
        self.__init__()

    def call(
        self,
        function: Callable[..., Any],
        world_size: int,
        args: tuple[Any, ...],
        set_aside: int,
        timeout_seconds: float,
    ) -> list[Any]:
        environment = dict(os.environ) | {
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        for tasks in self._tasks[:world_size]:
            tasks.put((function, args, set_aside, environment, str(Path.cwd())))
        return self._collect(world_size, time.monotonic() + timeout_seconds)

    def _collect(self, world_size: int, deadline: float) -> list[Any]:
        values: dict[int, Any] = {}
        while len(values) < world_size:
            try:
                rank, value, failure = self._results.get(timeout=0.5)
            except queue.Empty:
                for rank, process in enumerate(self._processes[:world_size]):
                    silent = rank not in values and not process.is_alive()
                    assert not silent, f"a rank ended without a word, exit code {process.exitcode}"
                assert time.monotonic() < deadline, "time-out: a rank hangs"
                continue
            assert failure is None, f"rank {rank} failed:\n{failure}"
            values[rank] = pickle.loads(value)  # noqa: S301
        return [values[rank] for rank in range(world_size)]


_POOL = _Pool()
atexit.register(_POOL.end)


def _serve(rank: int, tasks: SimpleQueue, results: Any) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    while True:
        function, args, set_aside, environment, folder = tasks.get()
        _seem_new()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            results.put(_answer(rank, function, args, set_aside, results))


def _seem_new() -> None:
    """Undo what programs do to their process and leave so."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()


def _answer(
    rank: int, function: Callable[..., Any], args: tuple[Any, ...], set_aside: int, results: Any
) -> tuple[int, bytes | None, str | None]:
    """The rank, and what the function returned, or how it failed."""
    from gazetteer.distributed.launch import process_group

    try:
        with process_group(collective_timeout_seconds=60, set_aside=set_aside) as ranks:
            try:
                # Pickled here: a queue would pass tensors as handles to this process's memory,
                # which may be gone when they are read.
                value = pickle.dumps(function(ranks, *args))
            except BaseException:
                # Told before the group ends, so that no other rank complains of that first.
                results.put((rank, None, traceback.format_exc()))
                raise
        return rank, value, None
    except BaseException:
        return rank, None, traceback.format_exc()
