"""What training changed, as ScaleDown's three JSON files say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer.compress.contest import dump
from gazetteer.compress.measures import Answered, averages, intervals
from gazetteer.files import replace_text

SAMPLES = 5
REPORT, BEFORE, AFTER = (
    "metrics_report.json",
    "before_training_results.json",
    "after_training_results.json",
)


def results(said: Answered, seconds: np.ndarray) -> dict[str, Any]:
    """What a model answered, and how fast.

    Args:
        said: to every question.
        seconds: float64 (trial), one query at a time.
    """
    milliseconds = 1e3 * seconds
    rows = zip(said.questions, said.predictions, said.answers, strict=True)
    return {
        "metrics": metrics(said),
        "intervals": {
            f"{name}_avg": list(ends) for name, ends in intervals(said.measured()).items()
        },
        "speed_stats": {
            "mean_ms": float(milliseconds.mean()),
            "std_ms": float(milliseconds.std()),
            "min_ms": float(milliseconds.min()),
            "max_ms": float(milliseconds.max()),
            "throughput_qps": float(1 / seconds.mean()),
        },
        "sample_predictions": [
            {"query": question, "prediction": prediction, "answers": list(answers)}
            for question, prediction, answers in list(rows)[:SAMPLES]
        ],
    }


def metrics(said: Answered) -> dict[str, float]:
    """Averages, by ScaleDown's names and two more."""
    return {f"{name}_avg": value for name, value in averages(said.measured()).items()}


def improvements(
    before: Mapping[str, float], after: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """By metric: the difference, and in percent of before; None where that is 0."""
    return {
        name: {
            "absolute": after[name] - before[name],
            "relative": 100 * (after[name] - before[name]) / before[name] if before[name] else None,
        }
        for name in before
    }


def metrics_report(
    before: Mapping[str, Any], after: Mapping[str, Any], uncompressed: Mapping[str, Any]
) -> dict[str, Any]:
    """The report, out of the `results` of the same network twice, and of its reader alone.

    The same network before and after training is as fast; what compression saves is beside it.
    """
    slow, fast = (each["speed_stats"]["mean_ms"] for each in (before, after))
    whole = uncompressed["speed_stats"]["mean_ms"]
    return {
        "before_training": before["metrics"],
        "after_training": after["metrics"],
        "uncompressed": uncompressed["metrics"],
        "improvements": improvements(before["metrics"], after["metrics"]),
        "speed_statistics": {
            "before_mean_ms": slow,
            "after_mean_ms": fast,
            "speedup": slow / fast,
            "speedup_compares": "the same compressed network before and after training",
            "uncompressed_mean_ms": whole,
            "speedup_over_uncompressed": whole / fast,
        },
    }


def write_reports(
    folder: Path, before: Mapping[str, Any], after: Mapping[str, Any], report: Mapping[str, Any]
) -> None:
    """Write the three files."""
    for name, value in ((BEFORE, before), (AFTER, after), (REPORT, report)):
        replace_text(folder / name, dump(value))


def summary(report: Mapping[str, Any]) -> str:
    """The report in a few lines."""
    names: Sequence[str] = tuple(report["before_training"])
    rows = [f"{'':20}{'before':>10}{'after':>10}{'uncompressed':>14}"]
    for name in names:
        parts = (report[part][name] for part in ("before_training", "after_training"))
        cells = "".join(f"{value:10.3f}" for value in parts)
        rows.append(f"{name:20}{cells}{report['uncompressed'][name]:14.3f}")
    return "\n".join(rows) + "\n"
