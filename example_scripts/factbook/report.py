"""Put the demo's results side by side: one table, one picture, ten answers with their passages."""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

READINGS = {
    "closed book": "test-closed-book",
    "open, retriever before training": "test-before",
    "open, retriever after training": "test-after",
}
SEARCHES = {"before training": "found-before", "after training": "found-after"}
CUTOFFS = (1, 5, 20, 100)
TEST_FILE = "test.jsonl"


def metrics_of(folder: Path) -> dict[str, float]:
    """The last evaluation an experiment logged, metric names without the file's."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    last = [record for record in records if record["kind"] == "eval"][-1]
    prefix = f"{TEST_FILE}/"
    return {key[len(prefix) :]: value for key, value in last.items() if key.startswith(prefix)}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; the first is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def reading_table(readings: Mapping[str, Mapping[str, float]]) -> str:
    """Exact match and F1 of each way to answer."""
    rows = [["countries never seen in training", "exact match", "F1"]]
    rows += [[n, f"{m['exact_match']:.1f}", f"{m['f1']:.1f}"] for n, m in readings.items()]
    return table(rows)


def search_table(searches: Mapping[str, Mapping[str, float]]) -> str:
    """Answer recall of the retriever before and after."""
    rows = [["answer recall of the retriever", *(f"@{k}" for k in CUTOFFS)]]
    rows += [
        [name, *(f"{metrics[f'answer_recall@{k}']:.1f}" for k in CUTOFFS)]
        for name, metrics in searches.items()
    ]
    return table(rows)


def samples(results: Path, count: int) -> str:
    """Some questions with answer, right answer, and the best passage found."""
    lines = [line for line in results.read_text(encoding="utf-8").split("\n") if line]
    chosen = random.Random(0).sample(lines, min(count, len(lines)))
    return "\n\n".join(_sample(json.loads(line)) for line in chosen)


def _sample(record: Mapping[str, Any]) -> str:
    question = record["query"].removeprefix("question: ").removesuffix(" answer: <extra_id_0>")
    passage = record["passages"][0]
    text = passage["text"].replace("\n", " | ")
    return (
        f"Q  {question}\n"
        f"A  {record['generation']}    (right: {' / '.join(record['answers'])})\n"
        f"   found: {passage['title']} | {text[:200]}"
    )


def picture(
    readings: Mapping[str, Mapping[str, float]],
    searches: Mapping[str, Mapping[str, float]],
    path: Path,
) -> None:
    """Two panels: what is answered, and what is found."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    names = [re.sub(r", | (?=before|after)", "\n", name) for name in readings]
    for offset, metric, label in ((-0.2, "exact_match", "exact match"), (0.2, "f1", "F1")):
        places = [i + offset for i in range(len(names))]
        bars = left.bar(places, [m[metric] for m in readings.values()], 0.38, label=label)
        left.bar_label(bars, fmt="%.0f")
    left.set_xticks(range(len(names)), names)
    left.set_ylim(0, 100)
    left.set_title("Answers about countries never seen in training")
    left.legend(loc="upper left")
    for name, metrics in searches.items():
        recalls = [metrics[f"answer_recall@{k}"] for k in CUTOFFS]
        right.plot([str(k) for k in CUTOFFS], recalls, marker="o", label=name)
    right.set_ylim(0, 100)
    right.set_xlabel("passages")
    right.set_title("The answer stands in the passages found (%)")
    right.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    readings = {n: metrics_of(options.experiments / f) for n, f in READINGS.items()}
    searches = {n: metrics_of(options.experiments / f) for n, f in SEARCHES.items()}
    results = options.experiments / READINGS["open, retriever after training"]
    shown = samples(results / "test-step-0.jsonl", 10)
    text = "\n\n".join([shown, reading_table(readings), search_table(searches)]) + "\n"
    (options.output / "report.txt").write_text(text, encoding="utf-8")
    picture(readings, searches, options.output / "report.png")
    print(text)
    print(f"written: {options.output / 'report.txt'} and {options.output / 'report.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
