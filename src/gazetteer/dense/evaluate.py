"""Measure a run against judgements.   python -m gazetteer.dense.evaluate -m mrr.10 QRELS RUN"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer.data.passage_rows import IDS_OF_OTHERS, SourceFormat
from gazetteer.errors import DataError, OptionError
from gazetteer.ir.answer_accuracy import accuracies, answer_positions
from gazetteer.ir.collections import read_documents
from gazetteer.ir.evidence import measure_pages
from gazetteer.ir.judgements import read_qrels
from gazetteer.ir.measures import (
    DEFAULT_MEASURES,
    Measured,
    measure_run,
    parse_measures,
    write_per_query,
)
from gazetteer.ir.question_files import read_kilt_evidence, read_kilt_run, read_questions
from gazetteer.ir.runs import read_run
from gazetteer.ir.whole_files import written_whole
from gazetteer.metrics.bootstrap import bootstrap_interval
from gazetteer.one_line_errors import exit_code

PROGRAM = "gazetteer.dense.evaluate"
EXIT_CODES = "exit codes: 0 done, 2 something is wrong, said in one line"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print.

    Returns:
        The exit code.
    """
    return run_command(PROGRAM, build_parser(), arguments)


def run_command(
    program: str, parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> int:
    """Run what the parser's `run` says; errors are one line. Returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    parsed = parser.parse_args(arguments)
    return exit_code(f"{program}: error", lambda: parsed.run(parsed))


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}", description=__doc__, epilog=EXIT_CODES, allow_abbrev=False
    )
    parser.set_defaults(run=_run)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="QRELS RUN",
        type=Path,
        help="judgements (TREC, MS MARCO, BEIR) and a run (six columns, or three); with --qa the "
        "run alone will do",
    )
    add_measure_flags(parser)
    parser.add_argument("-q", action="store_true", dest="each", help="print every query, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--per_query", type=Path, metavar="FILE", help="write every query there")
    parser.add_argument(
        "--kilt",
        action="store_true",
        help="QRELS is a file of KILT with evidence, RUN of pages, as TREC's or KILT's (.jsonl): "
        "R-precision, and recall of sets of evidence",
    )
    qa = parser.add_argument_group("accuracy of answers")
    qa.add_argument("--qa", action="store_true", help="look for answers in the passages found")
    qa.add_argument("--collection", type=Path, metavar="FILE", help="the passages: tsv or jsonl")
    qa.add_argument(
        "--answer", type=Path, metavar="FILE", help="tsv: [id,] question, Python list of answers"
    )
    return parser


def add_measure_flags(parser: argparse.ArgumentParser) -> None:
    """Which measures, and from which grade on a document is relevant."""
    parser.add_argument(
        "-m",
        "--measure",
        action="append",
        metavar="MEASURE",
        help="such as mrr.10, MRR@10, ndcg_cut.10, recall.1000, map, 'AP(rel=2)'; give it several "
        f"times for several [{' '.join(DEFAULT_MEASURES)}]",
    )
    parser.add_argument(
        "--rel",
        type=int,
        metavar="GRADE",
        help="grade from which a document is relevant, but for nDCG; TREC DL: 2 [1]",
    )


def _run(arguments: argparse.Namespace) -> None:
    if arguments.qa:
        _evaluate_answers(arguments)
        return
    for name in ("collection", "answer"):
        if getattr(arguments, name) is not None:
            raise OptionError(f"--{name} must come with --qa")
    if len(arguments.files) != 2:
        raise OptionError(f"QRELS RUN: found {len(arguments.files)} files, expected 2")
    measured = _measured_pages(arguments) if arguments.kilt else _measured(arguments)
    if arguments.per_query is not None:
        write_per_query(arguments.per_query, measured)
    if arguments.json:
        sys.stdout.write(json.dumps(_document(measured, arguments.each), indent=1) + "\n")
        return
    lines = measured.counts.lines()
    sys.stdout.writelines(f"# {line}\n" for line in lines)
    if arguments.each:
        sys.stdout.writelines(_query_lines(measured))
    for name, value in measured.averages.items():
        low, high = measured.intervals[name]
        sys.stdout.write(f"{name:<20}\tall\t{value:.4f}\t({low:.4f} to {high:.4f}, 95 %)\n")


def _measured(arguments: argparse.Namespace) -> Measured:
    measures = parse_measures(
        arguments.measure or DEFAULT_MEASURES, flag="--measure", rel=arguments.rel
    )
    qrels = read_qrels(arguments.files[0], flag="QRELS")
    return measure_run(qrels, read_run(arguments.files[1], flag="RUN"), measures)


def _measured_pages(arguments: argparse.Namespace) -> Measured:
    _refuse_measures(arguments, "--kilt, which has its own")
    gold, found = arguments.files
    evidence = read_kilt_evidence(gold, flag="QRELS")
    if not any(evidence.values()):
        raise DataError(f"{gold}: found no question with evidence, 'provenance' (QRELS)")
    is_output = found.name.lower().endswith((".jsonl", ".jsonl.gz", ".json"))
    run = read_kilt_run(found, flag="RUN") if is_output else read_run(found, flag="RUN")
    return measure_pages(evidence, run)


def _refuse_measures(arguments: argparse.Namespace, cause: str) -> None:
    for name, is_given in (("measure", arguments.measure), ("rel", arguments.rel is not None)):
        if is_given:
            raise OptionError(f"--{name} must not come with {cause}")


def _query_lines(measured: Measured) -> list[str]:
    return [
        f"{name:<20}\t{query_id}\t{values[place]:.4f}\n"
        for place, query_id in enumerate(measured.query_ids)
        for name, values in measured.values.items()
    ]


def _document(measured: Measured, with_queries: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "measures": measured.averages,
        "intervals": measured.intervals,
        "judged": measured.counts.judged,
        "missing": measured.counts.missing,
        "unjudged": measured.counts.unjudged,
        "unjudged_documents": measured.counts.unjudged_documents,
        "rules": measured.counts.lines(),
    }
    if with_queries:
        document["queries"] = {
            query_id: {name: float(values[place]) for name, values in measured.values.items()}
            for place, query_id in enumerate(measured.query_ids)
        }
    return document


def _evaluate_answers(arguments: argparse.Namespace) -> None:
    for name in ("collection", "answer"):
        if getattr(arguments, name) is None:
            raise OptionError(f"--qa must come with --{name}")
    _refuse_measures(arguments, "--qa, which measures answers alone")
    if arguments.kilt:
        raise OptionError("--kilt must not come with --qa")
    if len(arguments.files) > 2:
        raise OptionError(f"RUN: found {len(arguments.files)} files, expected one")
    questions = read_questions(arguments.answer, flag="--answer")
    answers = {question.id: question.answers for question in questions}
    run = read_run(arguments.files[-1], flag="RUN")
    form = SourceFormat("--collection", id_names=IDS_OF_OTHERS)
    positions = answer_positions(
        run,
        answers,
        read_documents(arguments.collection, form),
        collection=arguments.collection,
        flag="--collection",
    )
    missing = sum(question_id not in run for question_id in answers)
    if arguments.per_query is not None:
        with written_whole(arguments.per_query) as file:
            file.write("query_id\tfirst_position\n")
            file.writelines(f"{q}\t{position or ''}\n" for q, position in positions.items())
    _print_answers(arguments, positions, missing)


def _print_answers(
    arguments: argparse.Namespace, positions: dict[str, int | None], missing: int
) -> None:
    averages = accuracies(positions)
    intervals = {name: _interval(positions, name) for name in averages}
    if arguments.json:
        document: dict[str, Any] = {"measures": averages, "intervals": intervals}
        document |= {"questions": len(positions), "missing": missing}
        if arguments.each:
            document["queries"] = positions
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    sys.stdout.write(
        f"# questions: {len(positions)}, of which {missing} are missing from the run and count 0\n"
        "# answers: the words of one, one after the other, in the text of a passage; case, "
        "punctuation and the way accents are encoded do not count\n"
    )
    if arguments.each:
        rows = positions.items()
        sys.stdout.writelines(f"{'first position':<20}\t{q}\t{p or '-'}\n" for q, p in rows)
    for name, value in averages.items():
        low, high = intervals[name]
        sys.stdout.write(f"{name:<20}\tall\t{value:.4f}\t({low:.4f} to {high:.4f}, 95 %)\n")


def _interval(positions: dict[str, int | None], name: str) -> tuple[float, float]:
    cutoff = int(name.rpartition("@")[2])
    hits = [each is not None and each <= cutoff for each in positions.values()]
    return bootstrap_interval(np.array(hits, dtype=np.float64))


if __name__ == "__main__":
    sys.exit(main())
