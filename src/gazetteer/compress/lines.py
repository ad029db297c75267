"""Offline records -> lines with passages of their own, which `train.py` and `evaluate.py` read.

python -m gazetteer.compress.lines --records train.json --output_file train.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gazetteer.compress.records import OfflineRecord, read_records
from gazetteer.dense.commands import SeedParser
from gazetteer.errors import DataError, OptionError
from gazetteer.ir.whole_files import written_whole
from gazetteer.metrics.answers import normalize_answer
from gazetteer.one_line_errors import exit_code

HELD_OUT = 0.1
"""Share of the training records to evaluate on where there is no other file."""


def line_of(record: OfflineRecord, number: int, *, scored: bool) -> dict[str, Any]:
    """A record as a line of `--task qa --use_file_passages`.

    Args:
        record: its answer is the target; judged are its gold answers, where known.
        number: its place in the file, from 0.
        scored: keep its reranking scores.
    """
    ids = record.document_ids or tuple(
        f"{number}-{place}" for place in range(len(record.documents))
    )
    line: dict[str, Any] = {
        "id": str(number),
        "question": record.query,
        "answers": list(record.answers or (record.answer,)),
        "target": record.answer,
        # A document has its title in front already.
        "passages": [
            {"id": passage_id, "title": "", "text": text}
            for passage_id, text in zip(ids, record.documents, strict=True)
        ],
    }
    if scored and record.reranking_scores is not None:
        line["reranking_scores"] = list(record.reranking_scores)
    return line


def write_lines(path: Path, records: Sequence[OfflineRecord], *, scored: bool) -> None:
    """Write records as lines.

    Raises:
        DataError: the file cannot be written.
    """
    with written_whole(path) as file:
        for number, record in enumerate(records):
            line = line_of(record, number, scored=scored)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def evaluation_file(train: Path) -> Path:
    """Where the records to evaluate on lie beside the training file: `NAME_eval.EXTENSION`."""
    return train.with_name(f"{train.stem}_eval{train.suffix}")


def read_both(
    train: Path, evaluation: Path | None
) -> tuple[list[OfflineRecord], list[OfflineRecord], str]:
    """Records to train and to evaluate on, and in words where the latter come from.

    Args:
        train: `--train_data`.
        evaluation: `--eval_data`; None: `NAME_eval` beside the training file, else its last tenth.

    Raises:
        DataError: a file is malformed, a record has no answer, or the two parts overlap.
        OptionError: both are the same file, or there is one record and nothing to evaluate on.
    """
    if evaluation is not None and evaluation.resolve() == train.resolve():
        raise OptionError(f"--eval_data ({evaluation}) must be another file than --train_data")
    learned = answered(train, "--train_data")
    found = evaluation or evaluation_file(train)
    if evaluation is not None or found.exists():
        judged, source = answered(found, "--eval_data"), str(found)
    else:
        count = max(1, int(len(learned) * HELD_OUT))
        if len(learned) < 2:
            raise OptionError(f"--train_data ({train}) holds one record; give --eval_data as well")
        learned, judged = learned[:-count], learned[-count:]
        source = f"the last {count} records of {train}"
    refuse_overlap(learned, judged, str(train), source)
    return learned, judged, source


def answered(path: Path, flag: str) -> list[OfflineRecord]:
    """The records of a file, each with an answer.

    Raises:
        DataError: the file is malformed, or an answer is blank.
    """
    records = read_records(path, flag=flag)
    for number, record in enumerate(records, 1):
        if not record.answer.strip():
            raise DataError(
                f"{path}: record {number}: field 'answer': found a blank string, expected what is "
                f"to be learned; prepare_dataset has teachers answer ({flag})"
            )
    return records


def refuse_overlap(
    learned: Sequence[OfflineRecord], judged: Sequence[OfflineRecord], train: str, evaluation: str
) -> None:
    """Say no to a test on what was learned: the same question over the same passages.

    The same passages alone are no leak, since retrieval finds them for many questions.

    Raises:
        DataError: naming the first such record.
    """
    known = {_key(record): number for number, record in enumerate(learned, 1)}
    for number, record in enumerate(judged, 1):
        place = known.get(_key(record))
        if place is not None:
            raise DataError(
                f"{evaluation}: record {number}: the question {record.query!r} is record {place} "
                f"of {train}, too: nobody should be tested on what was learned (--eval_data)"
            )


def _key(record: OfflineRecord) -> tuple[str, frozenset[str]]:
    return normalize_answer(record.query), frozenset(record.documents)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = SeedParser("python -m gazetteer.compress.lines", (__doc__ or "").partition(" with")[0])
    parser.add_argument("--records", type=Path, required=True, help="JSON list, jsonl or parquet")
    parser.add_argument("--output_file", type=Path, required=True, help="jsonl")
    values = parser.parse_args(arguments)

    def write() -> None:
        records = answered(values.records, "--records")
        scored = all(record.reranking_scores is not None for record in records)
        write_lines(values.output_file, records, scored=scored)

    return exit_code("python -m gazetteer.compress.lines: error", write)


if __name__ == "__main__":
    sys.exit(main())
