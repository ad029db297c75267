"""The tables of docs/studies/joint-compression.md, in Markdown, from the folders of its runs.

What is not run yet is left out; every row says how many seeds it stands for.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from joint_pretraining_report import RECALLS, Metrics, last, spread, table
from study_parts import seconds_of, write_report

READ = ("exact_match", "f1", "eval_loss")
NAMES = {"exact_match": "EM", "f1": "F1", "eval_loss": "loss"} | {
    name: name.replace("answer_", "") for name in RECALLS
}
Runs = Mapping[tuple[str, str, int], Metrics]
"""What was measured, by what was read, who learned, and seed."""


def read_runs(folder: Path) -> Runs:
    """Every row that is done: what has its seconds noted."""
    experiments, runs = folder / "experiments", {}
    done = {path.name for path in (folder / "seconds").iterdir()}
    for name in sorted(done):
        match = re.fullmatch(r"(compressed|whole)-(frozen|joint)-(\d+)", name)
        found = f"found-{name}" if match and match[2] == "joint" else "found-start"
        if match is None or found not in done:
            continue
        read, recalls = (last(experiments / e, "eval") for e in (f"read-{name}", found))
        runs[match[1], match[2], int(match[3])] = {
            **{metric: read[metric] for metric in READ},
            **{metric: recalls[metric] for metric in RECALLS},
        }
    return runs


def runs_table(runs: Runs) -> str:
    """Mean and spread over seeds, by what was read and who learned."""
    rows = []
    for reading, method in dict.fromkeys(key[:2] for key in runs):
        measured = [metrics for key, metrics in runs.items() if key[:2] == (reading, method)]
        cells = [
            spread([metrics[name] for metrics in measured], 2 if name == "eval_loss" else 1)
            for name in NAMES
        ]
        rows.append([reading, method, *cells, str(len(measured))])
    return table(["passages", "retriever", *NAMES.values(), "n"], rows)


def gains_table(runs: Runs) -> str:
    """Joint less frozen, seed by seed."""
    rows = []
    for reading in dict.fromkeys(key[0] for key in runs):
        pairs = [
            (metrics, runs[reading, "frozen", seed])
            for (each, method, seed), metrics in runs.items()
            if (each, method) == (reading, "joint") and (reading, "frozen", seed) in runs
        ]
        if pairs:
            cells = [
                spread([a[name] - b[name] for a, b in pairs], 2 if name == "eval_loss" else 1)
                for name in NAMES
            ]
            wins = sum(a["f1"] > b["f1"] for a, b in pairs)
            rows.append([reading, *cells, f"{wins} of {len(pairs)}"])
    return table(["joint less frozen", *NAMES.values(), "seeds with higher F1"], rows)


def verdicts(runs: Runs) -> str:
    """For each way to read, whether F1 gains more than its spread over seeds."""
    lines = []
    for reading in dict.fromkeys(key[0] for key in runs):
        gains = [
            metrics["f1"] - runs[reading, "frozen", seed]["f1"]
            for (each, method, seed), metrics in runs.items()
            if (each, method) == (reading, "joint") and (reading, "frozen", seed) in runs
        ]
        if len(gains) > 1:
            mean, deviation = statistics.fmean(gains), statistics.stdev(gains)
            verb = "is" if mean > deviation else "is not"
            lines.append(
                f"Read {reading}: the gain in F1 ({mean:.1f}) {verb} above its spread over"
                f" {len(gains)} seeds ({deviation:.1f})."
            )
    return "\n".join(lines)


def report_of(folder: Path) -> str:
    """The report of what a study's folder holds."""
    runs, seconds = read_runs(folder), seconds_of(folder)
    parts = [runs_table(runs), gains_table(runs), verdicts(runs)] if runs else []
    minutes = sum(seconds.values()) / 60
    parts.append(f"{len(seconds)} parts took {minutes:.0f} minutes of one process.")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return write_report(report_of, (__doc__ or "").partition("\n")[0], arguments)


if __name__ == "__main__":
    sys.exit(main())
