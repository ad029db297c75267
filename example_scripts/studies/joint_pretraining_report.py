"""The tables of docs/studies/joint-pretraining.md, in Markdown, from the folders of its runs.

What is not run yet is left out; every row says how many seeds it stands for.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study_parts import seconds_of, write_report

from gazetteer.metrics.answers import accuracy, f1
from gazetteer.tasks.passage_text import words_as_shown

NAMES = {
    "untouched": "none at all",
    "none": "MLM, book closed",
    "closed": "closed book",
    "fixed": "fixed retriever",
    "adist": "ADist",
    "emdr2": "EMDR²",
    "pdist": "PDist",
    "loop": "LOOP",
}
"""Ways to pre-train and to fine-tune, in the order of the paper's Table 1."""

BASE = ("untouched", "fixed")
"""What the others are compared with: the models as they come, the reader alone fine-tuned."""

PAIRS = (
    (("pdist", "pdist"), ("none", "pdist")),
    (("pdist", "pdist"), ("untouched", "pdist")),
    (("untouched", "pdist"), ("untouched", "fixed")),
    (("untouched", "adist"), ("untouched", "pdist")),
    (("untouched", "emdr2"), ("untouched", "pdist")),
    (("untouched", "loop"), ("untouched", "pdist")),
)
"""What is set against what, seed by seed."""

CUTOFFS = (1, 5, 20)
RECALLS = tuple(f"answer_recall@{k}" for k in CUTOFFS)
Metrics = dict[str, float]


@dataclass(frozen=True, slots=True)
class Tuned:
    """One fine-tuning run.

    Attributes:
        pretraining, method: keys of `NAMES`.
        shots: training questions.
        seed: of sample, order and masks.
        metrics: percent; recall is that of the retriever it answered with.
        half_width: of the 95 % bootstrap interval of exact match, over questions.
    """

    pretraining: str
    method: str
    shots: int
    seed: int
    metrics: Metrics
    half_width: float


@dataclass(frozen=True, slots=True)
class Study:
    """Everything the tables are made of.

    Attributes:
        pretrained: (method, seed) -> metrics on held-out passages; "untouched" has seed 0.
        found: (pre-training, seed) -> recall on the questions, before any was learnt from.
        tuned: every fine-tuning run.
        seconds: of each part, by name.
    """

    pretrained: Mapping[tuple[str, int], Metrics]
    found: Mapping[tuple[str, int], Metrics]
    tuned: Sequence[Tuned]
    seconds: Mapping[str, float]


def records_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def last(folder: Path, kind: str) -> dict[str, Any]:
    """The last record of a kind in an experiment's metrics, names without the data file's."""
    found = [each for each in records_of(folder / "metrics.jsonl") if each["kind"] == kind]
    return {name.rpartition("/")[2]: value for name, value in found[-1].items()}


def filled(folder: Path) -> Metrics:
    """How well gaps are filled, but for case: the reader's tokenizer knows small letters only."""
    (path,) = folder.glob("valid-step-*.jsonl")
    records = [record for record in records_of(path) if record["answers"]]
    pairs = [
        (
            words_as_shown(record["generation"]).lower(),
            [words_as_shown(answer).lower() for answer in record["answers"]],
        )
        for record in records
    ]
    return {
        "accuracy": 100 * statistics.fmean(accuracy(*pair) for pair in pairs),
        "f1": 100 * statistics.fmean(f1(*pair, normalize=str) for pair in pairs),
    }


def read_study(folder: Path) -> Study:
    """Everything that is done in a study's folder: what has its seconds noted."""
    seconds = seconds_of(folder)
    experiments = folder / "experiments"
    pretrained, found, tuned = {}, {}, []
    for name in seconds:
        if name == "found-untouched":
            found["untouched", 0] = last(experiments / name, "eval")
        elif name == "mlm-untouched":
            pretrained["untouched", 0] = _pretrained(experiments / name)
        elif match := re.fullmatch(r"mlm-(\w+)-(\d+)", name):
            key = match[1], int(match[2])
            pretrained[key] = _pretrained(experiments / name)
            if (experiments / f"found-{name}").exists():
                found[key] = last(experiments / f"found-{name}", "eval")
    for name in seconds:
        if match := re.fullmatch(r"qa-(\w+)-(\w+)-(\d+)-(\d+)", name):
            tuned.append(_tuned(experiments, name, match, found))
    return Study(pretrained, found, tuned, seconds)


def _pretrained(folder: Path) -> Metrics:
    return {"eval_loss": last(folder, "eval")["eval_loss"], **filled(folder)}


def _tuned(
    experiments: Path,
    name: str,
    match: re.Match[str],
    found: Mapping[tuple[str, int], Metrics],
) -> Tuned:
    metrics = last(experiments / name, "eval")
    recalls: Mapping[str, float] = {}
    if (experiments / f"found-{name}").exists():
        recalls = last(experiments / f"found-{name}", "eval")
    elif match[2] == "fixed":
        recalls = found.get((match[1], int(match[4])), found["untouched", 0])
    low, high = last(experiments / name, "interval")["exact_match"]
    return Tuned(
        pretraining=match[1],
        method=match[2],
        shots=int(match[3]),
        seed=int(match[4]),
        metrics={name: metrics[name] for name in ("exact_match", "f1")}
        | {name: recalls[name] for name in RECALLS if name in recalls},
        half_width=(high - low) / 2,
    )


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± sample standard deviation; the mean alone of one value; a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, columns after the first to the right."""
    ruler = ["---", *("---:" for _ in heading[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heading, ruler, *rows])


def pretraining_table(study: Study) -> str:
    """Loss and words of held-out passages by way to pre-train."""
    rows = []
    for method, name in NAMES.items():
        seeds = sorted(seed for each, seed in study.pretrained if each == method)
        if not seeds:
            continue
        runs = [study.pretrained[method, seed] for seed in seeds]
        gains = [
            study.pretrained[method, seed]["eval_loss"] - base["eval_loss"]
            for seed in seeds
            if method != "none" and (base := study.pretrained.get(("none", seed)))
        ]
        rows.append(
            [
                name,
                spread([run["eval_loss"] for run in runs], 3),
                spread(gains, 3),
                *(spread([run[metric] for run in runs]) for metric in ("f1", "accuracy")),
                str(len(seeds)),
            ]
        )
    heading = ["pre-training", "MLM loss", "against book closed", "F1", "all right", "n"]
    return table(heading, rows)


def found_table(study: Study) -> str:
    """Recall on the questions after pre-training alone."""
    rows = []
    for method, name in NAMES.items():
        runs = [metrics for (each, _), metrics in study.found.items() if each == method]
        if runs:
            cells = [spread([run[metric] for run in runs]) for metric in RECALLS]
            rows.append([name, *cells, str(len(runs))])
    return table(["pre-training", *(f"recall@{k}" for k in CUTOFFS), "n"], rows)


def tuning_table(study: Study, shots: int) -> str:
    """Exact match, F1 and recall by way to pre-train and to fine-tune."""
    base = {
        run.seed: run.metrics["exact_match"]
        for run in study.tuned
        if ((run.pretraining, run.method), run.shots) == (BASE, shots)
    }
    rows = []
    for pretraining in NAMES:
        for method in NAMES:
            runs = [
                run
                for run in study.tuned
                if (run.pretraining, run.method, run.shots) == (pretraining, method, shots)
            ]
            if not runs:
                continue

            def column(pick: Callable[[Tuned], float | None], runs: list[Tuned] = runs) -> str:
                return spread([value for run in runs if (value := pick(run)) is not None])

            rows.append(
                [
                    NAMES[pretraining],
                    NAMES[method],
                    column(lambda run: run.metrics["exact_match"]),
                    column(
                        lambda run: (
                            run.metrics["exact_match"] - base[run.seed]
                            if run.seed in base and (run.pretraining, run.method) != BASE
                            else None
                        )
                    ),
                    column(lambda run: run.metrics["f1"]),
                    *(column(lambda run, m=metric: run.metrics.get(m)) for metric in RECALLS),
                    str(len(runs)),
                ]
            )
    heading = ["pre-training", "fine-tuning", "EM", "against none/fixed", "F1"]
    return table([*heading, *(f"recall@{k}" for k in CUTOFFS), "n"], rows)


def pairs_table(study: Study, shots: int) -> str:
    """Differences between runs of the same seed."""
    scores = {
        (run.pretraining, run.method, run.seed): run.metrics
        for run in study.tuned
        if run.shots == shots
    }
    rows = []
    for pair in PAIRS:
        first, second = pair
        seeds = [seed for *way, seed in scores if (*way,) == first and (*second, seed) in scores]
        cells = [
            spread([scores[*first, s][metric] - scores[*second, s][metric] for s in seeds])
            for metric in ("exact_match", "f1", "answer_recall@1")
            if all(metric in scores[*way, s] for way in pair for s in seeds)
        ]
        if seeds and len(cells) == 3:
            names = [" / ".join(NAMES[name] for name in way) for way in pair]
            rows.append([*names, *cells, str(len(seeds))])
    return table(["pre-training / fine-tuning", "less", "EM", "F1", "recall@1", "n"], rows)


def report(study: Study) -> str:
    """Every table, each under its heading."""
    parts = ["### Held-out passages", pretraining_table(study)]
    parts += ["### Retriever after pre-training", found_table(study)]
    for shots in sorted({run.shots for run in study.tuned}):
        runs = [run for run in study.tuned if run.shots == shots]
        width = statistics.fmean(run.half_width for run in runs)
        parts += [
            f"### {shots} questions",
            tuning_table(study, shots),
            pairs_table(study, shots),
            f"95 % bootstrap interval of one run's EM, over questions: ± {width:.1f} on average.",
        ]
    hours = sum(study.seconds.values()) / 3600
    parts.append(f"{len(study.seconds)} parts took {hours:.1f} hours of one process, added up.")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    description = (__doc__ or "").partition("\n")[0]
    return write_report(lambda folder: report(read_study(folder)), description, arguments)


if __name__ == "__main__":
    sys.exit(main())
