"""What the same models answer with the current index and with that of 2015, side by side."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import table

from gazetteer.metrics.answers import exact_match

RUNS = {"current": "with-current", "2015": "with-2015"}
RESULTS = "questions-step-0.jsonl"
MAY_DIFFER = {"name", "load_index_path"}
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """One question: accepted answers by edition, given answers by index ("current" or "2015")."""

    question: str
    field: str
    seen: bool
    accepted: dict[str, list[str]]
    given: dict[str, str]

    def is_right(self, index: str, edition: str) -> bool:
        """Whether the answer given with an index is that of an edition."""
        return exact_match(self.given[index], self.accepted[edition]) == 1.0


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a jsonl file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_asked(folder: Path) -> list[Asked]:
    """Questions joined by id with both runs' answers.

    Raises:
        KeyError: a run did not answer one of the questions.
    """
    given = {
        index: {r["id"]: r["generation"] for r in lines_of(folder / "experiments" / run / RESULTS)}
        for index, run in RUNS.items()
    }
    return [
        Asked(
            line["question"],
            line["field"],
            line["seen"],
            {"current": line["answers"], "2015": line["answers_2015"]},
            {index: answers[line["id"]] for index, answers in given.items()},
        )
        for line in lines_of(folder / "questions.jsonl")
    ]


def differing_flags(folder: Path) -> list[str]:
    """Options, besides the experiment's name, in which the two evaluations differ."""
    first, second = (
        json.loads((folder / "experiments" / run / "options.json").read_text(encoding="utf-8"))
        for run in RUNS.values()
    )
    return sorted(key for key in first | second if first.get(key) != second.get(key))


def shares(asked: Sequence[Asked], index: str) -> list[str]:
    """Count, then how many answers given with an index are each edition's."""
    rights = [sum(one.is_right(index, edition) for one in asked) for edition in RUNS]
    return [str(len(asked)), *(f"{n} ({100 * n / max(len(asked), 1):.0f}%)" for n in rights)]


def swap_table(asked: Sequence[Asked]) -> str:
    """Two rows, one for each index, of each field and of whether training saw the country."""
    rows = [["", "questions", "answered as in current", "answered as in 2015"]]
    groups: dict[str, list[Asked]] = {}
    for one in sorted(asked, key=lambda one: (one.seen, one.field != "head of government")):
        whose = "training's countries" if one.seen else "unseen countries"
        groups.setdefault(f"{one.field}, {whose}", []).append(one)
    for name, chosen in (*groups.items(), ("all", asked)):
        rows += [[f"{name}; {index} index", *shares(chosen, index)] for index in RUNS]
    return table(rows)


def samples(asked: Sequence[Asked], count: int) -> str:
    """Some questions with both answers, drawn at random whether right or wrong."""
    chosen = random.Random(0).sample(list(asked), min(count, len(asked)))
    return "\n\n".join(map(_sample, chosen))


def _sample(one: Asked) -> str:
    answers = [
        f"{index:>7}: {one.given[index]}    (edition: {one.accepted[index][0]})" for index in RUNS
    ]
    return "\n".join([f"Q  {one.question}", *answers])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="what swap.sh wrote")
    options = parser.parse_args(arguments)
    differing = differing_flags(options.folder)
    if not set(differing) <= MAY_DIFFER:
        print(f"swap_report: the runs differ in more: {', '.join(differing)}", file=sys.stderr)
        return 2
    asked = read_asked(options.folder)
    unseen = [one for one in asked if not one.seen]
    flags = ", ".join(f"--{flag}" for flag in differing)
    text = "\n\n".join([samples(unseen, SAMPLES), swap_table(asked), f"flags that differ: {flags}"])
    (options.folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
