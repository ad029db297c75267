"""MMLU for `--task multiple_choice`: 5-shot, 5-shot-multitask and full.

Writes {question, options, answer, dataset} below data/mmlu_data:

    5-shot/individual_train/{subject}.5-shot-train.jsonl
    5-shot/individual_valid/{subject}.val.jsonl
    5-shot/individual_test/{subject}.test.jsonl
    5-shot-multitask/train.jsonl    the five questions of every subject
    full/train.jsonl                the same, and the auxiliary questions of other exams
    full/auxillary_valid.jsonl      5000 auxiliary questions kept apart (the spelling is Atlas's)
    */combined_{valid,test}.jsonl   every subject's
"""

from __future__ import annotations

import csv
import io
import random
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archives import members
from data_files import data_folder, parser_of, write_rows

from gazetteer.downloading import fetch
from gazetteer.errors import DataError
from gazetteer.one_line_errors import exit_code

SOURCE = "https://people.eecs.berkeley.edu/~hendrycks/data.tar"
LETTERS = "ABCD"
AUXILIARY_SEED = 10
AUXILIARY_VALID = 5000
NAMES = {"dev": ("train", "5-shot-train"), "val": ("valid", "val"), "test": ("test", "test")}
FLAG = "--output_directory"

Rows = list[Mapping[str, Any]]


def questions(where: str, content: bytes, dataset: str) -> Rows:
    """Lines of one csv without a header: question, four options, letter.

    Args:
        where: archive and member, for messages.
        content: the csv, in UTF-8.
        dataset: what the questions are said to come from, such as "anatomy_test".

    Raises:
        DataError: a line of another shape.
    """
    found: Rows = []
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True)
        for row in reader:
            if len(row) != len(LETTERS) + 2 or row[-1].strip() not in tuple(LETTERS):
                expected = "a question, 4 options and one of A, B, C, D"
                raise DataError(
                    f"{where}:{reader.line_num}: found {len(row)} columns ending in "
                    f"{(row or [''])[-1]!r:.40}, expected {expected} ({FLAG})"
                )
            options = dict(zip(LETTERS, row[1:5], strict=True))
            found.append(
                {
                    "question": row[0],
                    "options": options,
                    "answer": row[-1].strip(),
                    "dataset": dataset,
                }
            )
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{where}: {error} ({FLAG})") from None
    return found


def read_archive(path: Path) -> dict[str, dict[str, Rows]]:
    """Questions by split (dev, val, test, auxiliary_train) and subject, both sorted."""
    found: dict[str, dict[str, Rows]] = {"dev": {}, "val": {}, "test": {}, "auxiliary_train": {}}
    for member in members(path):
        name = re.search(r"(?:^|/)(dev|val|test|auxiliary_train)/([^/.][^/]*)\.csv$", member.name)
        if name is not None:
            rows = questions(f"{path}: {member.name}", member.read(), name[2])
            found[name[1]][name[2].removesuffix(f"_{name[1]}")] = rows
    for split, subjects in found.items():
        if not subjects:
            raise DataError(f"{path}: found no {split}/*.csv ({FLAG})")
    for split, subjects in found.items():
        if split != "auxiliary_train" and set(subjects) != set(found["test"]):
            odd = min(set(subjects) ^ set(found["test"]))
            raise DataError(f"{path}: {odd} is not in both {split}/ and test/ ({FLAG})")
    return {split: dict(sorted(subjects.items())) for split, subjects in found.items()}


def _together(subjects: Mapping[str, Rows]) -> Rows:
    return [row for rows in subjects.values() for row in rows]


def prepare(folder: Path) -> None:
    """Fetch what is missing and write the three settings below `folder`."""
    splits = read_archive(fetch(SOURCE, folder / "downloads" / "mmlu.tar"))
    output = folder / "mmlu_data"
    few_shots = _together(splits["dev"])
    auxiliary = _together(splits["auxiliary_train"])
    random.Random(AUXILIARY_SEED).shuffle(auxiliary)
    kept = max(len(auxiliary) - AUXILIARY_VALID, 0)
    for split, (part, suffix) in NAMES.items():
        for subject, rows in splits[split].items():
            write_rows(output / "5-shot" / f"individual_{part}" / f"{subject}.{suffix}.jsonl", rows)
    write_rows(output / "5-shot-multitask" / "train.jsonl", few_shots)
    write_rows(output / "full" / "train.jsonl", [*auxiliary[:kept], *few_shots])
    write_rows(output / "full" / "auxillary_valid.jsonl", auxiliary[kept:])
    for setting in ("5-shot", "5-shot-multitask", "full"):
        write_rows(output / setting / "combined_valid.jsonl", _together(splits["val"]))
        write_rows(output / setting / "combined_test.jsonl", _together(splits["test"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = parser_of(__doc__).parse_args(arguments)
    folder = data_folder(options.output_directory)
    return exit_code("prepare_mmlu", lambda: prepare(folder))


if __name__ == "__main__":
    sys.exit(main())
