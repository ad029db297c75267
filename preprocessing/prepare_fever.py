"""FEVER's claims: train, train-64, dev and test.

Writes the published lines as they are to data/fever_data; those of test have no label. Which 64
make `train-64.jsonl` is drawn by --seed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_files import SHOTS, data_folder, few, parser_of, write_rows

from gazetteer.data.jsonl import Field, read_lines
from gazetteer.downloading import fetch
from gazetteer.one_line_errors import exit_code

SOURCES = {
    "train": "https://fever.ai/download/fever/train.jsonl",
    "dev": "https://fever.ai/download/fever/shared_task_dev.jsonl",
    "test": "https://fever.ai/download/fever/shared_task_test.jsonl",
}
LABELS = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")


def claims(path: Path, *, is_labelled: bool) -> list[Mapping[str, Any]]:
    """Checked lines of one split.

    Raises:
        DataError: a line without claim or, if `is_labelled`, without a label of FEVER.
    """
    fields = (
        Field("claim", "text", required=True),
        Field("label", "text", required=is_labelled, allowed=LABELS),
    )
    return [line.value for line in read_lines(path, fields, flag="--output_directory")]


def prepare(folder: Path, seed: int) -> None:
    """Fetch what is missing and write the splits below `folder`."""
    for split, url in SOURCES.items():
        path = fetch(url, folder / "downloads" / f"fever-{split}.jsonl")
        rows = claims(path, is_labelled=split != "test")
        write_rows(folder / "fever_data" / f"{split}.jsonl", rows)
        if split == "train":
            write_rows(folder / "fever_data" / f"train-{SHOTS}.jsonl", few(rows, seed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = parser_of(__doc__).parse_args(arguments)
    folder = data_folder(options.output_directory)
    return exit_code("prepare_fever", lambda: prepare(folder, options.seed))


if __name__ == "__main__":
    sys.exit(main())
