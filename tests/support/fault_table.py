"""The table of faults: what the project says it survives, how often that was tried, what was lost.

Tests add rows to their reports; the end of a session prints them, and writes them to
`--fault-table FILE` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path

import pytest

PROPERTY = "fault_row"
"""Of a test's report, which finds its way from the process that ran the test."""


@dataclass(frozen=True, slots=True)
class Row:
    """One claim.

    Attributes:
        claim: what is survived.
        tried: so many times.
        lost: how often it was not.
        how: what was done, and what is counted as lost.
        seconds: it took.
    """

    claim: str
    tried: int
    lost: int
    how: str
    seconds: float


def rows_of(reports: Iterable[pytest.TestReport]) -> list[Row]:
    """What tests have added."""
    said = (each for report in reports for each in report.user_properties)
    return [Row(**row) for name, row in said if name == PROPERTY]


def lines(rows: list[Row]) -> Iterator[str]:
    """The table in Markdown, in the order of the claims, with those of one claim together."""
    cells = [
        [str(value) if not isinstance(value, float) else f"{value:.0f}" for value in astuple(row)]
        for row in sorted(rows, key=lambda row: row.claim)
    ]
    cells.insert(0, [field.name for field in fields(Row)])
    cells.insert(1, ["-" * len(name) for name in cells[0]])
    for row in cells:
        yield f"| {' | '.join(row)} |"


def write(rows: list[Row], path: Path) -> None:
    """As JSON, a list of objects."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
