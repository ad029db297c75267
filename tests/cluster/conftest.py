"""What the tests on a cluster share: a world, and rows in the table of faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs import whole_job
from tests.cluster.slurm_cluster import Cluster, why_not
from tests.support.ranks import run_on_ranks
from tests.support.runs import make_world


@pytest.fixture
def report(fault_row):
    """Add a row of one trial: case, outcome, and how long that part of it took."""

    def add(case: str, outcome: str, seconds: float) -> None:
        fault_row("cluster", 1, 0, f"{case}: {outcome} ({seconds:.1f} s)")

    return add


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm of two nodes, all of this machine's."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data, and a run of two workers that nothing interrupts."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    run_on_ranks(whole_job, 2, folder, "whole2", timeout_seconds=400)
    return folder
