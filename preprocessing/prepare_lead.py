"""The files that LEAD released, as this project's commands read them.

Out of psgs_w100.tsv, biencoder-DATASET-train.json and -train-hard.json, and DATASET-test.qa.csv in
one folder this makes corpus.tsv (id, title, text), train.jsonl, train-hard.jsonl, and queries and
judgements: train.queries.tsv, train.qrels.tsv, dev.queries.tsv and dev.qrels.tsv. Passages are
numbered from 0, as LEAD's training files name them; its table of passages counts from 1. Files that
are not there are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gazetteer.data.jsonl import BadLineError, describe
from gazetteer.errors import DataError
from gazetteer.ir.collections import write_queries
from gazetteer.ir.judgements import write_qrels
from gazetteer.ir.lines import read_fields
from gazetteer.ir.question_files import read_questions, relevant_ids
from gazetteer.ir.records import Qrels, Query, TrainingLine
from gazetteer.ir.training_files import write_training_lines
from gazetteer.ir.training_formats import read_training_lines
from gazetteer.ir.whole_files import written_whole
from gazetteer.one_line_errors import exit_code

FLAG = "--input_dir"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="prepare_lead.py", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, help="mspas or msdoc, as files are named")
    parser.add_argument("--input_dir", type=Path, required=True, help="where LEAD's files are")
    parser.add_argument("--output_dir", type=Path, required=True, help="for the files written")
    options = parser.parse_args(arguments)
    return exit_code(
        "prepare_lead", lambda: prepare(options.dataset, options.input_dir, options.output_dir)
    )


def prepare(dataset: str, source: Path, output: Path) -> None:
    """Write what can be made of the files that are there.

    Raises:
        DataError: there is none of them, or a bad line.
    """
    passages = source / "psgs_w100.tsv"
    training = {
        name: source / f"biencoder-{dataset}-{name}.json" for name in ("train", "train-hard")
    }
    questions = source / f"{dataset}-test.qa.csv"
    present = [path for path in (passages, *training.values(), questions) if path.is_file()]
    if not present:
        raise DataError(f"{source}: found none of LEAD's files of {dataset} ({FLAG})")
    if passages.is_file():
        _tell(output / "corpus.tsv", write_corpus(passages, output / "corpus.tsv"))
    for name, path in training.items():
        if path.is_file():
            write_training(path, output, name)
    if questions.is_file():
        asked = read_questions(questions, flag=FLAG)
        write_queries(output / "dev.queries.tsv", (Query(each.id, each.text) for each in asked))
        write_qrels(output / "dev.qrels.tsv", relevant_ids(asked))
        _tell(output / "dev.queries.tsv", len(asked))


def write_corpus(source: Path, target: Path) -> int:
    """Passages with their number in the file, from 0, as id; returns how many there are."""

    def make(fields: list[str]) -> tuple[int, str, str] | None:
        number, text, title = fields
        if number == "id":
            return None
        if not number.isdecimal() or number == "0":
            raise BadLineError(f"found {describe(number)}, expected a number from 1")
        return int(number) - 1, title, text

    count = 0
    with written_whole(target) as file:
        for row in read_fields(source, make, columns=(3,), flag=FLAG):
            file.write("{}\t{}\t{}\n".format(*row))
            count += 1
    return count


def write_training(source: Path, output: Path, name: str) -> None:
    """Training lines, numbered; of the first file also its queries and judgements."""
    queries: list[Query] = []
    qrels: Qrels = {}

    def numbered() -> Iterator[TrainingLine]:
        for number, line in enumerate(read_training_lines(source, flag=FLAG)):
            query_id = line.query_id or str(number)
            queries.append(Query(query_id, " ".join((line.query or "").split())))
            qrels[query_id] = {positive.id: 1 for positive in line.positives}
            yield replace(line, query_id=query_id)

    _tell(output / f"{name}.jsonl", write_training_lines(output / f"{name}.jsonl", numbered()))
    if name == "train":
        write_queries(output / "train.queries.tsv", queries)
        write_qrels(output / "train.qrels.tsv", qrels)


def _tell(path: Path, count: int) -> None:
    print(f"{path}: {count} lines")


if __name__ == "__main__":
    sys.exit(main())
