"""The tables of docs/studies/dense-training.md, in Markdown, from the folder of its runs.

What is not run yet is left out; every row says how many seeds it stands for.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from dense_training_plan import (
    ALONE,
    BM25,
    COLLECTIONS,
    IN_BATCH,
    LEAD,
    LOOP,
    MINED,
    MINED_LEAD,
    RANDOM,
    START,
    TEACHER,
    UNIT,
)
from joint_pretraining_report import spread, table
from study_parts import seconds_of, write_report

from gazetteer.ir.comparison import compare
from gazetteer.ir.judgements import read_qrels
from gazetteer.ir.measures import Measured, measure_run, parse_measures
from gazetteer.ir.records import Qrels, Run
from gazetteer.ir.runs import read_run

MEASURES = ("nDCG@10", "R@20")
WORDS = "words"
NAMES = {
    WORDS: "BM25, for comparison",
    START: "start",
    IN_BATCH: "in-batch",
    RANDOM: "and random passages",
    BM25: "and hard ones by BM25",
    MINED: "and hard ones from the index",
    LOOP: "and hard ones, mined in the loop",
    LEAD: "by BM25, with LEAD",
    MINED_LEAD: "from the index, with LEAD",
    UNIT + IN_BATCH: "length 1: in-batch",
    UNIT + BM25: "length 1: and hard ones by BM25",
    UNIT + MINED: "length 1: and hard ones from the index",
    TEACHER: "LEAD's teacher",
}
"""Rows of the tables, in their order."""

PAIRS = (
    (IN_BATCH, START),
    (RANDOM, IN_BATCH),
    (BM25, IN_BATCH), (MINED, IN_BATCH), (LOOP, IN_BATCH),
    (BM25, RANDOM), (MINED, RANDOM), (LOOP, RANDOM),
    *ALONE.items(),
    (UNIT + BM25, UNIT + IN_BATCH),
    (UNIT + MINED, UNIT + IN_BATCH), (UNIT + IN_BATCH, IN_BATCH), (UNIT + BM25, BM25),
)  # fmt: skip
"""What is set against what, seed by seed."""

Runs = dict[str, dict[int, Measured]]
"""Row -> seed -> every held-out query; what has no seed has the seed 0."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that is known of a collection.

    Attributes:
        name: of the collection.
        runs: see `Runs`.
        trained: number of queries trained on, per part that is held out.
        held: number of queries held out, likewise.
    """

    name: str
    runs: Runs
    trained: tuple[int, ...]
    held: tuple[int, ...]


def read_results(folder: Path, name: str) -> Results | None:
    """What is done with a collection; None where nothing is.

    Of parts that are held out in turn, each query's hits are those of the model that was not
    trained on it. A seed counts once all parts are done.
    """
    sides = {
        path.parent.name: (
            read_qrels(path.parent / "train.tsv", flag="--folder"),
            read_qrels(path, flag="--folder"),
        )
        for path in sorted((folder / "data" / name).glob("*/test.tsv"))
    }
    done = {path.name for path in (folder / "seconds").iterdir()}
    if not sides or f"{name}-{START}" not in done:
        return None
    qrels = {query: docs for _, test in sides.values() for query, docs in test.items()}
    runs: Runs = {}
    alone = ((WORDS, BM25), (START, START), (TEACHER, TEACHER))
    for row, part in ((row, f"{name}-{part}") for row, part in alone):
        if part not in done:
            continue
        runs[row] = {0: measured(qrels, read_found(folder, part))}
    for row in NAMES:
        found = (re.fullmatch(rf"{name}-\w+-{row}-(\d+)", part) for part in done)
        for seed in sorted({int(each[1]) for each in found if each}):
            names = {held: f"{name}-{held}-{row}-{seed}" for held in sides}
            if done.issuperset(names.values()):
                run = merged(
                    {held: read_found(folder, part) for held, part in names.items()},
                    {held: test for held, (_, test) in sides.items()},
                )
                runs.setdefault(row, {})[seed] = measured(qrels, run)
    return Results(
        name,
        runs,
        tuple(len(train) for train, _ in sides.values()),
        tuple(len(test) for _, test in sides.values()),
    )


def read_found(folder: Path, part: str) -> Run:
    """The run of a part."""
    (path,) = (folder / "experiments" / f"found-{part}").glob("*.trec")
    return read_run(path, flag="--folder")


def merged(runs: Mapping[str, Run], tests: Mapping[str, Qrels]) -> Run:
    """Of each run the queries that were held out from it."""
    return {
        query: hits
        for held, run in runs.items()
        for query, hits in run.items()
        if query in tests[held]
    }


def measured(qrels: Qrels, run: Run) -> Measured:
    """Every query that is judged."""
    return measure_run(qrels, run, parse_measures(MEASURES, flag="measures"))


def average(runs: Sequence[Measured]) -> Measured:
    """Each query's values, averaged over seeds."""
    values = {name: np.mean([run.values[name] for run in runs], axis=0) for name in runs[0].values}
    return replace(runs[0], values=values)


def result_table(results: Results) -> str:
    """Means over the held-out queries, their spread over seeds."""
    rows = []
    for row, label in NAMES.items():
        runs = list(results.runs.get(row, {}).values())
        if runs:
            cells = [spread([run.averages[name] for run in runs], 3) for name in MEASURES]
            rows.append([label, *cells, str(len(runs))])
    return table(["trained on", *MEASURES, "n"], rows)


def pairs_table(results: Results) -> str:
    """Differences between runs of the same seed; tests over queries, of averages over seeds."""
    rows = []
    for first, second in PAIRS:
        ours, others = results.runs.get(first, {}), results.runs.get(second, {})
        seeds = [seed for seed in ours if seed in others or 0 in others]
        if not seeds:
            continue
        base = [others.get(seed) or others[0] for seed in seeds]
        tested = compare(average(base), average([ours[seed] for seed in seeds]))
        for comparison in tested:
            name = comparison.name
            gains = [
                ours[seed].averages[name] - other.averages[name]
                for seed, other in zip(seeds, base, strict=True)
            ]
            low, high = comparison.interval
            t_test = "-" if comparison.t_test is None else shown_p(comparison.t_test)
            rows.append(
                [
                    f"{NAMES[first]} - {NAMES[second]}",
                    name,
                    spread(gains, 3),
                    f"{low:+.3f} to {high:+.3f}",
                    t_test,
                    shown_p(comparison.randomisation),
                    f"{comparison.wins}/{comparison.ties}/{comparison.losses}",
                    str(len(seeds)),
                ]
            )
    heading = ["difference", "measure", "over seeds", "95 % over queries", "p, t-test"]
    return table([*heading, "p, randomised", "better/same/worse", "n"], rows)


def shown_p(value: float) -> str:
    """A probability with three digits behind the point."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def report(found: Sequence[Results], seconds: Mapping[str, float]) -> str:
    """Every table, each under its heading."""
    parts = []
    for results in found:
        sizes = ", then ".join(
            f"{train} to train on and {held} held out"
            for train, held in zip(results.trained, results.held, strict=True)
        )
        parts += [f"### {results.name}", f"Queries: {sizes}.", result_table(results)]
        parts.append(pairs_table(results))
    minutes = sum(seconds.values()) / 60
    parts.append(f"{len(seconds)} parts took {minutes:.0f} minutes of one process, added up.")
    return "\n\n".join(parts) + "\n"


def report_of(folder: Path) -> str:
    """The report of what a study's folder holds."""
    every = [read_results(folder, collection.name) for collection in COLLECTIONS]
    return report([each for each in every if each is not None], seconds_of(folder))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return write_report(report_of, (__doc__ or "").partition("\n")[0], arguments)


if __name__ == "__main__":
    sys.exit(main())
