"""Compare two runs on the same judgements.   python -m gazetteer.dense.compare QRELS RUN_A RUN_B"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from gazetteer.dense.evaluate import EXIT_CODES, add_measure_flags, run_command
from gazetteer.ir.comparison import Comparison, compare, differing_queries, write_differences
from gazetteer.ir.judgements import read_qrels
from gazetteer.ir.measures import DEFAULT_MEASURES, Measured, measure_run, parse_measures
from gazetteer.ir.runs import read_run

PROGRAM = "gazetteer.dense.compare"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, compare, print.

    Returns:
        The exit code.
    """
    return run_command(PROGRAM, build_parser(), arguments)


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROGRAM}", description=__doc__, epilog=EXIT_CODES, allow_abbrev=False
    )
    parser.set_defaults(run=_run)
    parser.add_argument("qrels", type=Path, metavar="QRELS", help="judgements")
    parser.add_argument("first", type=Path, metavar="RUN_A", help="a run")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="another run")
    add_measure_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the randomisation test [0]")
    parser.add_argument(
        "--show", type=int, default=5, metavar="N", help="queries to show at either end [5]"
    )
    parser.add_argument("--per_query", type=Path, metavar="FILE", help="write every query there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    names = arguments.measure or DEFAULT_MEASURES
    measures = parse_measures(names, flag="--measure", rel=arguments.rel)
    qrels = read_qrels(arguments.qrels, flag="QRELS")
    first = measure_run(qrels, read_run(arguments.first, flag="RUN_A"), measures)
    second = measure_run(qrels, read_run(arguments.second, flag="RUN_B"), measures)
    comparisons = compare(first, second, seed=arguments.seed)
    if arguments.per_query is not None:
        write_differences(arguments.per_query, first, second)
    if arguments.json:
        document = {
            "comparisons": [asdict(each) for each in comparisons],
            "first": asdict(first.counts),
            "second": asdict(second.counts),
        }
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
        return
    for letter, measured in (("A", first), ("B", second)):
        sys.stdout.write(f"# {letter}: {measured.counts.lines()[0]}\n")
    sys.stdout.writelines(f"# {line}\n" for line in first.counts.lines()[1:2])
    sys.stdout.writelines(_table(comparisons))
    sys.stdout.writelines(_queries(first, second, measures[0].name, arguments.show))


def _table(comparisons: Sequence[Comparison]) -> list[str]:
    head = (
        "measure",
        "A",
        "B",
        "B - A",
        "95 % interval",
        "p t-test",
        "p random.",
        "B wins/ties/loses",
    )
    rows = [
        (
            each.name,
            f"{each.first:.4f}",
            f"{each.second:.4f}",
            f"{each.second - each.first:+.4f}",
            f"{each.interval[0]:+.4f} to {each.interval[1]:+.4f}",
            "-" if each.t_test is None else f"{each.t_test:.4f}",
            f"{each.randomisation:.4f}",
            f"{each.wins}/{each.ties}/{each.losses}",
        )
        for each in comparisons
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in (head, *rows)
    ]


def _queries(first: Measured, second: Measured, name: str, count: int) -> list[str]:
    """The queries that differ most in the first measure: where B wins, then where it loses."""
    ordered = differing_queries(first, second, name)
    wins = [(query_id, delta) for query_id, delta in ordered if delta > 0][:count]
    losses = [(query_id, delta) for query_id, delta in reversed(ordered) if delta < 0][:count]
    lines = []
    for title, queries in (("wins", wins), ("loses", losses)):
        if queries:
            lines.append(f"# {name}: where B {title} most\n")
            lines += [f"{query_id}\t{delta:+.4f}\n" for query_id, delta in queries]
    return lines


if __name__ == "__main__":
    sys.exit(main())
