"""What `--dry_run` says a run needs, beside what the run then takes.

Each configuration is trained for two updates in a process of its own, or in several, which have
trained it for one before: libraries keep what they compile for each shape. Counted is how much a
process's largest resident size has grown since, with glibc told to give memory back
(MALLOC_MMAP_THRESHOLD_): so it counts tensors, as torch counts those of a GPU. As it comes, glibc
keeps what was freed for later.

    python -m benchmarks.memory
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.measure import RESULTS
from benchmarks.memory_runs import CONFIGURATIONS, INDEX, measure

MIB = 2**20


def measured(name: str) -> dict[str, int]:
    """Start a process that measures one row."""
    environment = dict(os.environ)
    environment |= {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    with tempfile.TemporaryDirectory() as scratch:
        words = [sys.executable, "-m", "benchmarks.memory", "--measure", name, "--folder", scratch]
        found = subprocess.run(
            words, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    return json.loads(found.stdout.splitlines()[-1])


def main() -> None:
    """Measure every configuration and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*CONFIGURATIONS, INDEX]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        estimate, grown = measure(asked.measure, asked.folder / "world")
        sys.stdout.write(json.dumps({"estimate": estimate, "measured": grown}) + "\n")
        return
    print("| MiB | estimate | measured | estimate / measured |\n|---|---|---|---|", flush=True)
    rows: dict[str, dict[str, float]] = {}
    for name in asked.only:
        found = measured(name)
        ratio = found["estimate"] / found["measured"]
        rows[name] = {**found, "ratio": ratio}
        sizes = [found["estimate"] / MIB, found["measured"] / MIB]
        print(f"| {name} | {sizes[0]:.0f} | {sizes[1]:.0f} | {ratio:.2f} |", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "memory.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
