"""Run a function on several gloo ranks, as a test."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import socket
import time
import traceback
import warnings
from collections.abc import Callable
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

    Warnings are errors there, as in any other test.

    Args:
        function: defined at module level, so that a new process can import it.
        world_size: number of processes.
        args: passed on; must be picklable, as the results.
        timeout_seconds: after which all are ended and the test fails.
        set_aside: so many of the processes take no part in collectives; they come last.

    Raises:
        AssertionError: with the traceback of the first rank that failed, or of nobody on a
            time-out.
    """
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    port = free_port()
    processes = [
        context.Process(
            target=_child, args=(function, rank, world_size, port, results, args, set_aside)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        return _collect(results, processes, world_size, time.monotonic() + timeout_seconds)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _collect(results: Any, processes: list[Any], world_size: int, deadline: float) -> list[Any]:
    values: dict[int, Any] = {}
    while len(values) < world_size:
        try:
            rank, value, failure = results.get(timeout=0.5)
        except queue.Empty:
            silent = [p for r, p in enumerate(processes) if r not in values and not p.is_alive()]
            assert not silent, f"a rank ended without a word, exit code {silent[0].exitcode}"
            assert time.monotonic() < deadline, "time-out: a rank hangs"
            continue
        assert failure is None, f"rank {rank} failed:\n{failure}"
        values[rank] = pickle.loads(value)  # noqa: S301
    return [values[rank] for rank in range(world_size)]


def _child(
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    port: int,
    results: Any,
    args: tuple[Any, ...],
    set_aside: int,
) -> None:
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world_size,
        "LOCAL_WORLD_SIZE": world_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
        "HF_HUB_OFFLINE": 1,
    }
    os.environ.update({name: str(value) for name, value in environment.items()})
    import torch

    from gazetteer.distributed.collectives import barrier
    from gazetteer.distributed.launch import process_group

    torch.set_num_threads(1)
    warnings.simplefilter("error")
    try:
        with process_group(collective_timeout_seconds=60, set_aside=set_aside) as ranks:
            try:
                # Pickled here: a queue would pass tensors as handles to this process's memory,
                # which may be gone when they are read.
                results.put((rank, pickle.dumps(function(ranks, *args)), None))
            except BaseException:
                # Told before the group ends, so that no other rank complains of that first.
                results.put((rank, None, traceback.format_exc()))
                raise
            # Leave together: a rank that goes early closes connections the others still use.
            barrier()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
