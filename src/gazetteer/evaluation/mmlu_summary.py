"""MMLU accuracy per category.   python -m gazetteer.evaluation.mmlu_summary RESULTS [RESULTS ...]

Reads what `--task multiple_choice --write_results` wrote. The subject of a question is its field
`dataset`, such as `anatomy_test`. Every question counts the same, in a category and over all.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazetteer.data.jsonl import describe, read_lines
from gazetteer.errors import DataError, GazetteerError
from gazetteer.evaluation.closed_answers import LIKELIHOODS
from gazetteer.evaluation.mmlu_subjects import CATEGORIES, CATEGORY_OF

COLUMNS = ("debiased_accuracy", "accuracy", "ranking_accuracy")
"""By probabilities averaged over orders, by the free answer to the question as it stands, and by
the likelihoods of `--rank_candidates` in the same order. The run's own log averages the last two
over all orders."""

_SPLIT = re.compile(r"_(dev|val|test|train)$")


@dataclass(frozen=True, slots=True)
class Judged:
    """One question.

    Attributes:
        subject: one of the 57.
        scores: 0 or 1 for some of `COLUMNS`.
    """

    subject: str
    scores: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns the exit code: 0, or 2 after one line about what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m gazetteer.evaluation.mmlu_summary",
        description="Accuracy on MMLU, in percent, per category and over all questions.",
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS")
    parser.add_argument("--per_subject", action="store_true", help="a line for each subject, too")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    given = parser.parse_args(arguments)
    try:
        summary = summarise(judged(given.results), per_subject=given.per_subject)
        if not summary["all"]["questions"]:
            raise DataError(f"{', '.join(map(str, given.results))}: found no question with answer")
    except GazetteerError as error:
        sys.stderr.write(f"mmlu_summary: error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps(summary) + "\n" if given.json else table(summary))
    return 0


def judged(paths: Iterable[Path]) -> Iterator[Judged]:
    """Questions with an answer in results files.

    Raises:
        DataError: a line is no record of `--task multiple_choice` on MMLU, or no record at all.
    """
    for path in paths:
        for line in read_lines(path, [], flag="RESULTS"):
            record = line.value
            try:
                subject, answers = _subject(record), record["answers"]
                if answers:
                    yield Judged(subject, _scores(record, answers))
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                problem = error if type(error) is ValueError else "no record of multiple_choice"
                raise DataError(f"{path}:{line.number}: {problem} (RESULTS)") from None


def _subject(record: dict[str, Any]) -> str:
    dataset = record["metadata"].get("dataset")
    subject = _SPLIT.sub("", dataset) if isinstance(dataset, str) else None
    if subject not in CATEGORY_OF:
        found = "nothing" if dataset is None else describe(dataset)
        raise ValueError(f"field 'metadata.dataset': found {found}, expected a subject of MMLU")
    return subject


def _scores(record: dict[str, Any], answers: Sequence[str]) -> dict[str, float]:
    original = record["permutations"][0]
    scores = {
        "debiased_accuracy": float(record["generation"] in answers),
        "accuracy": float(original["generation"] in answers),
    }
    if LIKELIHOODS in original:
        likelihoods = original[LIKELIHOODS]
        best = max(likelihoods, key=likelihoods.__getitem__)
        scores["ranking_accuracy"] = float(best in answers)
    return scores


def summarise(
    questions: Iterable[Judged], *, per_subject: bool = False
) -> dict[str, dict[str, float]]:
    """Questions and accuracies in percent, by category, "all" and, if wanted, subject.

    Categories without a question are left out; "all" is always there.
    """
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for question in questions:
        names = ["all", CATEGORY_OF[question.subject], question.subject]
        for name in names if per_subject else names[:2]:
            groups[name].append(question.scores)
    subjects = sorted(groups.keys() - {*CATEGORIES, "all"})
    present = [name for name in (*subjects, *CATEGORIES) if name in groups]
    return {name: _average(groups[name]) for name in (*present, "all")}


def _average(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    average: dict[str, float] = {"questions": len(scores)}
    for column in COLUMNS:
        values = [each[column] for each in scores if column in each]
        if values:
            average[column] = 100 * sum(values) / len(values)
    return average


def table(summary: dict[str, dict[str, float]]) -> str:
    """The summary as a Markdown table."""
    columns = [column for column in COLUMNS if column in summary["all"]]
    rows = [("", "questions", *columns), ("---", *["---:"] * (1 + len(columns)))]
    for name, average in summary.items():
        numbers = [f"{average[c]:.1f}" if c in average else "" for c in columns]
        rows.append((name, str(average["questions"]), *numbers))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
