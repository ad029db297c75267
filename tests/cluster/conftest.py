"""A table of what was tried and how long it took, at the end of `make test-cluster`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.runs import whole_job
from tests.support.ranks import run_on_ranks
from tests.support.runs import make_world

ROWS: list[tuple[str, str, str]] = []


@pytest.fixture
def report():
    """Add a row: case, outcome, seconds."""
    return lambda case, outcome, seconds: ROWS.append((case, outcome, f"{seconds:.1f}"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data, and a run of two workers that nothing interrupts."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    run_on_ranks(whole_job, 2, folder, "whole2", timeout_seconds=400)
    return folder


def pytest_terminal_summary(terminalreporter) -> None:
    if not ROWS:
        return
    terminalreporter.write_line("")
    rows = [("case", "outcome", "seconds"), *ROWS]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        case, outcome, seconds = row
        line = f"| {case:{widths[0]}} | {outcome:{widths[1]}} | {seconds:>{widths[2]}} |"
        terminalreporter.write_line(line)
