"""What compression keeps and what it saves, beside honest baselines: one JSON file, one table.

    python -m gazetteer.compress.scoreboard --eval_data eval.json --output_dir board
        --uncompressed runs/whole/checkpoint/latest --compressed runs/c16/checkpoint/latest

Rows: closed book, whole passages (the baseline of every comparison), the first passage, the first
by BM25, and each compressor; all answer the same questions from the same passages.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gazetteer.compress.contest import best_by_words, dump, read_names, ways_to_read
from gazetteer.compress.devices import alone, choose_device
from gazetteer.compress.lines import answered, write_lines
from gazetteer.compress.playing import Timing, play
from gazetteer.compress.scoreboard_table import markdown
from gazetteer.dense.commands import SeedParser, positive
from gazetteer.files import replace_text
from gazetteer.one_line_errors import exit_code, require_one_process
from gazetteer.reporting import start_log

JSON, TABLE = "scoreboard.json", "scoreboard.md"


def write(board: Mapping[str, Any], folder: Path) -> str:
    """Write JSON and table into a folder; returns the table."""
    table = markdown(board)
    replace_text(folder / JSON, dump(board))
    replace_text(folder / TABLE, table)
    return table


def build_parser() -> SeedParser:
    """The command's flags."""
    parser = SeedParser(
        "python -m gazetteer.compress.scoreboard", (__doc__ or "").partition(":")[0]
    )
    add = parser.add_argument
    add(
        "--eval_data", type=Path, required=True, help="records to answer: JSON list, jsonl, parquet"
    )
    add("--compressed", nargs="+", required=True, metavar="[NAME=]FOLDER", help="checkpoints")
    add("--uncompressed", type=Path, metavar="FOLDER", help="checkpoint whose reader reads whole "
        "passages: the baseline; none = that of the first compressor")  # fmt: skip
    add("--closed_book", type=Path, metavar="FOLDER", help="none = as --uncompressed")
    add("--n_context", type=positive, default=10, help="passages that are read")
    add("--output_dir", type=Path, required=True, help="for the table and the answers")
    add("--max_examples", type=positive, help="answer so many at most; none = all")
    add("--generation_max_length", type=positive, default=32)
    add_timing(parser)
    add("--device", choices=("gpu", "cpu", "trainium"), default="gpu")
    return parser


def add_timing(parser: argparse.ArgumentParser) -> None:
    """Flags of how costs are measured."""
    add = parser.add_argument
    add("--timed_batch_size", type=positive, default=8, help="timed beside single queries")
    add("--timed_queries", type=positive, default=20, help="trials, and queries whose FLOPs count")
    add("--warm_up", type=int, default=3, help="rounds before the first that counts")
    add("--timed_tokens", type=at_least_two, default=16, help="of every timed answer")


def at_least_two(text: str) -> int:
    """A whole number from 2: the first token is the prefill's."""
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, got {number}")
    return number


def timing_of(values: argparse.Namespace) -> Timing:
    """What the flags of `add_timing` say."""
    return Timing(
        batch_size=values.timed_batch_size,
        queries=values.timed_queries,
        warm_up=max(values.warm_up, 0),
        new_tokens=values.timed_tokens,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    values = build_parser().parse_args(arguments)
    return exit_code("python -m gazetteer.compress.scoreboard: error", lambda: _main(values))


def _main(values: argparse.Namespace) -> None:
    require_one_process(os.environ, "costs are those of one process, so start it once")
    choose_device(values.device)
    ranks = alone()
    start_log(ranks)
    names = read_names(values.compressed, "--compressed")
    records = answered(values.eval_data, "--eval_data")[: values.max_examples]
    folder: Path = values.output_dir
    lines = {"given": folder / "given.jsonl", "bm25": folder / "bm25.jsonl"}
    write_lines(lines["given"], records, scored=False)
    write_lines(lines["bm25"], best_by_words(records), scored=False)
    whole = values.uncompressed or next(iter(names.values()))
    flags = {
        "n_context": values.n_context,
        "generation_max_length": values.generation_max_length,
        "per_gpu_batch_size": values.timed_batch_size,
    }
    rows = ways_to_read(
        whole, values.closed_book or whole, names,
        folder=folder / "evaluations", lines=lines, flags=flags,
    )  # fmt: skip
    sys.stdout.write(write(play(rows, folder, timing_of(values), ranks).board, folder))


if __name__ == "__main__":
    sys.exit(main())
