"""Passages on disk: built by one process and by all cores; opened, against a list of dicts.

Made-up passages of 100 words. Building reads jsonl, checks every line, and ends with the files
hashed and on the disk. Opening happens in a fresh process each time; the peer reads the jsonl into
a list of dicts, as Atlas does in every worker. Memory is what a process holds more than before it
opened: resident in all, and of that its own (a map's pages are shared by all workers of a machine,
and given back when memory is short). Also after 10,000 passages were read at random.

    python -m benchmarks.passages [--passages 1000000] [--build_passages 300000]
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Timing, interleave, report
from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passage_workers import usable_processes
from gazetteer.data.passages import PassageStore
from gazetteer.files import STAMP
from gazetteer.stamps import SETTLED_NS

WORDS_PER_PASSAGE, READ_AT_RANDOM = 100, 10_000
PEER, OURS, CHECKED = "list of dicts", "Gazetteer", "Gazetteer, hashes compared"
MB = 10**6


def write_passages(path: Path, count: int) -> None:
    """Seeded passages of made-up words, as jsonl."""
    words = np.array([f"word{i}" for i in range(5000)])
    generator = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for row in range(count):
            text = " ".join(words[generator.integers(0, 5000, WORDS_PER_PASSAGE)])
            passage = {"id": str(row), "title": f"title {row}", "text": text}
            file.write(json.dumps(passage) + "\n")


def compare_building(source: Path, count: int, scratch: Path, repetitions: int) -> None:
    """One process against one for each core; the same files come out."""
    processes = usable_processes()
    fingerprints = set()

    def build(number: int) -> None:
        shutil.rmtree(scratch / "cache", ignore_errors=True)
        store = cached_passage_store([source], scratch / "cache", processes=number)
        fingerprints.add(store.fingerprint)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    contestants = {
        "1 process": partial(build, 1),
        f"{processes} processes": partial(build, processes),
    }
    timings = interleave(contestants, repetitions, time.perf_counter, warm_up=0)
    assert len(fingerprints) == 1, "different stores"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    facts = {"passages": count, "source, MB": round(source.stat().st_size / MB)}
    facts |= {f"passages per second, {n}": round(count / t.median) for n, t in timings.items()}
    facts["peak memory of the program above its start, MB"] = round(grown * 1024 / MB)
    report("passages_build", "Building the store (wall time)", timings, "1 process", facts)


def open_list(source: Path) -> Callable[[Sequence[int]], list[Any]]:
    """The peer: every passage as a dict."""
    with source.open("rb") as file:
        passages = [json.loads(line) for line in file]
    return lambda rows: [passages[row] for row in rows]


def open_store(folder: Path) -> Callable[[Sequence[int]], list[Any]]:
    """Ours."""
    return PassageStore(folder).records


def memory() -> dict[str, int]:
    """Bytes of this process that are in memory: all, and its own."""
    names = {"VmRSS": "resident", "RssAnon": "own"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[line[0][:-1]]: int(line[1]) * 1024 for line in lines if line[0][:-1] in names}


def open_here(name: str, path: Path, count: int) -> dict[str, float]:
    """Open in this process: seconds, and bytes held beyond what was held before."""
    rows = np.random.default_rng(1).integers(0, count, READ_AT_RANDOM).tolist()
    before = memory()
    start = time.perf_counter()
    read = (open_list if name == PEER else open_store)(path)
    figures: dict[str, float] = {"seconds": time.perf_counter() - start}
    figures |= {key: held - before[key] for key, held in memory().items()}
    start = time.perf_counter()
    for first in range(0, READ_AT_RANDOM, 100):
        read(rows[first : first + 100])
    figures["seconds per 100 passages"] = (time.perf_counter() - start) * 100 / READ_AT_RANDOM
    return figures | {f"{k} after reading": v - before[k] for k, v in memory().items()}


def compare_opening(source: Path, folder: Path, count: int, repetitions: int) -> None:
    """A fresh process for each measurement."""
    measured: dict[str, list[dict[str, float]]] = {PEER: [], CHECKED: [], OURS: []}
    for _ in range(repetitions):
        for name, results in measured.items():
            if name == CHECKED:
                (folder / STAMP).unlink(missing_ok=True)
            path = source if name == PEER else folder
            command = [sys.executable, "-m", "benchmarks.passages", "--open", name, str(path)]
            command += ["--passages", str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
    facts: dict[str, object] = {"passages": count}
    for key in ("resident", "own", "resident after reading", "own after reading"):
        held = {name: np.median([r[key] for r in results]) for name, results in measured.items()}
        facts[f"memory, {key}"] = (
            f"{held[PEER] / MB:.1f} MB and {held[OURS] / MB:.1f} MB, "
            f"{held[PEER] / held[OURS]:.0f} x; {held[OURS] / count:.1f} bytes per passage"
        )
    for name in (PEER, OURS):
        seconds = np.median([r["seconds per 100 passages"] for r in measured[name]])
        facts[f"reading 100 passages at random, {name}"] = f"{seconds * 1000:.2f} ms"
    timings = {name: Timing([r["seconds"] for r in rs]) for name, rs in measured.items()}
    report("passages_open", "Opening in a fresh process (wall time)", timings, PEER, facts)


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--build_passages", type=int, default=300_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--open", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(open_here(options.open[0], Path(options.open[1]), options.passages)))
        return
    with tempfile.TemporaryDirectory() as name:
        scratch, source = Path(name), Path(name) / "passages.jsonl"
        write_passages(source, options.build_passages)
        compare_building(source, options.build_passages, scratch, options.repetitions)
        write_passages(source, options.passages)
        folder = cached_passage_store([source], scratch / "opened").folder
        # What was written a moment ago is hashed again.
        time.sleep(SETTLED_NS / 1e9 + 0.1)
        compare_opening(source, folder, options.passages, options.repetitions)


if __name__ == "__main__":
    main()
