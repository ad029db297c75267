"""What became of queries and candidates: counted, printed, and kept beside the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from gazetteer.mining.choosing import EXAMINED
from gazetteer.mining.filters import REASONS
from gazetteer.mining.line_builder import NEGATIVES, NO_NEGATIVES, POSITIVES, RANKS, WRITTEN

ASKED = "queries in the file of candidates"
UNJUDGED = "queries without a positive in --qrels, skipped"
UNKNOWN = "queries that --queries does not have, skipped"
ORDER = (ASKED, UNJUDGED, UNKNOWN, NO_NEGATIVES, WRITTEN, POSITIVES, NEGATIVES, EXAMINED)


def report_of(counts: Counter[str]) -> dict[str, int | float | dict[str, int]]:
    """Counts in the order of the work; every filter is named, at 0 where it is not in use."""
    report: dict[str, int | float | dict[str, int]] = {name: counts[name] for name in ORDER}
    if counts[RANKS]:
        report["mean rank of negatives"] = round(counts[RANKS] / counts[NEGATIVES], 2)
    report["dropped"] = {reason: counts[reason] for reason in REASONS}
    return report


def shown(report: Mapping[str, object]) -> Iterator[str]:
    """Lines for a person to read."""
    for name, value in report.items():
        if isinstance(value, Mapping):
            yield from (f"{name}, {reason}: {count}" for reason, count in value.items())
        else:
            yield f"{name}: {value}"
