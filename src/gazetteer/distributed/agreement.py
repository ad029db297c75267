"""Errors that all ranks share: none is left waiting for one that failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

from gazetteer import errors
from gazetteer.distributed.collectives import broadcast_bytes, gather_bytes
from gazetteer.errors import DiskError, GazetteerError, LaunchError, PeerFailedError
from gazetteer.files import disk_problem
from gazetteer.records import Ranks

Built = TypeVar("Built")


def main_first(function: Callable[[], object], ranks: Ranks, *, per_node: bool = False) -> None:
    """Let one rank do something that may fail, while the others wait; then go on, or fail alike.

    Collective: every rank must call this.

    Args:
        function: run on rank 0, or with `per_node` on local rank 0 of each machine; its result
            is dropped.
        ranks: this process among its peers.
        per_node: run once on every machine.

    Raises:
        GazetteerError: what the function raised, on every rank. What a disk does not do arrives
            elsewhere as DiskError, any other error as PeerFailedError; where they happened, they
            are themselves.
    """
    problem: Exception | None = None
    if ranks.local_rank == 0 if per_node else ranks.is_main:
        try:
            function()
        except Exception as error:
            problem = error
    raise_together(problem, ranks)


def build_main_first(build: Callable[[], Built], ranks: Ranks) -> Built:
    """Build something whose files one rank of each machine prepares and the others then reuse.

    Collective: every rank must call this.

    Returns:
        What `build` returned on this rank; it is called once on each.

    Raises:
        GazetteerError: as `main_first` does.
    """
    built: list[Built] = []
    main_first(lambda: built.append(build()), ranks, per_node=True)
    return built[0] if built else build()


def build_alike(build: Callable[[], Built], ranks: Ranks) -> Built:
    """Build the same thing on every rank at once, or on none.

    Collective: every rank must call this, and `build` must not be collective.

    Raises:
        GazetteerError: what `build` raised on the lowest rank where it did; the same on every rank.
    """
    built: list[Built] = []
    problem: GazetteerError | None = None
    try:
        built.append(build())
    except GazetteerError as error:
        problem = error
    raise_together(problem, ranks)
    return built[0]


def raise_together(problem: Exception | None, ranks: Ranks) -> None:
    """Raise on every rank if any rank has a problem; the lowest rank's is the one reported.

    Collective: every rank must call this.

    Args:
        problem: this rank's, or None.
        ranks: this process among its peers.
    """
    if ranks.world_size == 1:
        if problem is not None:
            raise problem
        return
    gathered = gather_bytes(_describe(problem, ranks.rank))
    first = next((part for part in gathered if part), b"") if gathered is not None else None
    verdict = broadcast_bytes(first)
    if problem is not None and not isinstance(problem, GazetteerError):
        raise problem
    if verdict:
        raise _revive(verdict)


def _describe(problem: Exception | None, rank: int) -> bytes:
    if problem is None:
        return b""
    if isinstance(problem, GazetteerError):
        return json.dumps([type(problem).__name__, str(problem)]).encode()
    on_disk = disk_problem(problem)
    if on_disk is not None:
        return json.dumps([DiskError.__name__, on_disk]).encode()
    message = f"rank {rank} failed: {type(problem).__name__}: {problem}"
    return json.dumps([PeerFailedError.__name__, message]).encode()


def _revive(verdict: bytes) -> GazetteerError:
    """Build the error anew from its class name and message; only our own classes are known."""
    name, message = json.loads(verdict)
    kind = getattr(errors, name, LaunchError)
    is_known = isinstance(kind, type) and issubclass(kind, GazetteerError)
    error = (kind if is_known else LaunchError)(message)
    error.is_shared = True
    return error
