"""What compression keeps and what it saves, beside honest baselines: one JSON file, one table.

    python -m gazetteer.compress.scoreboard --eval_data eval.json --output_dir board
        --uncompressed runs/whole/checkpoint/latest --compressed runs/c16/checkpoint/latest

Rows: closed book, whole passages (the baseline of every comparison), the first passage, the first
by BM25, and each compressor; all answer the same questions from the same passages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer import build
from gazetteer.compress.contest import (
    WHOLE,
    Contestant,
    best_by_words,
    dump,
    read_names,
    ways_to_read,
)
from gazetteer.compress.costs import Costs, Query, Race, answer_in_full, count_costs, finisher, race
from gazetteer.compress.devices import choose_device
from gazetteer.compress.lines import answered, write_lines
from gazetteer.compress.measures import (
    Answered,
    averages,
    difference_interval,
    intervals,
    ratio_interval,
    read_answers,
)
from gazetteer.compress.scoreboard_table import markdown
from gazetteer.compute import seed_everything
from gazetteer.data.sampling import Draw
from gazetteer.data_files import open_data
from gazetteer.dense.commands import SeedParser, positive
from gazetteer.errors import OptionError
from gazetteer.evaluation.loop import ReadingStage
from gazetteer.evaluation.run import Evaluation, build_evaluation
from gazetteer.files import replace_text
from gazetteer.one_line_errors import exit_code
from gazetteer.records import Ranks
from gazetteer.reporting import start_experiment, start_log
from gazetteer.stats import Stopwatch

JSON, TABLE = "scoreboard.json", "scoreboard.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How costs are measured.

    Attributes:
        batch_size: of the second timing; the first is of one query at a time.
        queries: whose FLOPs are counted, and trials of each timing.
        warm_up: rounds before.
        new_tokens: of every answer that is counted or timed.
    """

    batch_size: int
    queries: int
    warm_up: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a contest.

    Attributes:
        board: what `scoreboard.json` holds.
        answers: by name of the row.
        seconds: by name of the row, float64 (trial): of one query at a time.
    """

    board: dict[str, Any]
    answers: dict[str, Answered]
    seconds: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Entered:
    """A contestant with its models in memory."""

    evaluation: Evaluation
    stage: ReadingStage
    n_context: int

    def queries(self, count: int, size: int) -> list[Query]:
        """Batches of `size` examples, from the first on, as many as there are up to `count`."""
        batches = self.evaluation.batches
        evaluator = self.evaluation.evaluator
        found = []
        for first in range(0, min(count * size, batches.count), size):
            numbers = range(first, min(first + size, batches.count))
            batch = batches.build([Draw(number, 0) for number in numbers])
            wanted = max(self.n_context, self.stage.candidates)
            hits = evaluator.source.hits(batch, wanted, Stopwatch())
            found.append(Query(batch, hits, self.n_context))
        return found


def enter(contestant: Contestant, ranks: Ranks) -> Entered:
    """Load a contestant's models and its lines.

    Raises:
        GazetteerError: they cannot be loaded.
    """
    options = contestant.options
    # As training does: what begins with new weights begins with the same ones.
    seed_everything(options.experiment.seed + ranks.rank)
    data = open_data(options, ranks, is_training=False)
    models = build.build_models(options, ranks, build.model_folder(options))
    files = data.evaluations[0]
    evaluation = build_evaluation(options, ranks, models, None, data.task, files)
    stage = evaluation.evaluator.reading
    assert stage is not None, "a contestant reads"
    return Entered(evaluation, stage, options.reader.n_context)


def answers_of(entered: Entered, results: Path) -> Answered:
    """What a contestant says to every question; written to `results` as well."""
    evaluation = entered.evaluation
    evaluation.evaluator.evaluate(evaluation.batches, evaluation.passages, results, evaluation.name)
    return read_answers(results)


def play(contestants: Sequence[Contestant], folder: Path, timing: Timing, ranks: Ranks) -> Played:
    """Let all answer, and measure.

    Two are in memory at a time: the baseline, and the one compared with it.

    Args:
        contestants: one of them called `WHOLE`, the baseline.
        folder: for what they answer.
        timing: how costs are measured.
        ranks: one process.

    Raises:
        GazetteerError: one of them cannot be loaded.
    """
    start_experiment(folder, contestants[0].options, ranks)
    whole = enter(next(each for each in contestants if each.name == WHOLE), ranks)
    baseline = answers_of(whole, folder / "baseline.jsonl")
    rows: list[dict[str, Any]] = []
    answers: dict[str, Answered] = {}
    seconds: dict[str, np.ndarray] = {}
    for number, each in enumerate(contestants):
        entered = whole if each.name == WHOLE else enter(each, ranks)
        said = (
            baseline if each.name == WHOLE else answers_of(entered, folder / f"row-{number}.jsonl")
        )
        races = {
            str(size): run_race(whole, entered, size, timing, ranks)
            for size in dict.fromkeys((1, timing.batch_size))
        }
        answers[each.name], seconds[each.name] = said, races["1"].other
        costs = count_costs(entered.stage, entered.queries(timing.queries, 1), timing.new_tokens)
        rows.append(row(each.name, said, baseline, costs, races))
        sys.stderr.write(f"{each.name}: F1 {rows[-1]['measures']['token_f1']:.3f}\n")
    compare_costs(rows)
    board = {
        "baseline": WHOLE,
        "questions": len(baseline.questions),
        "device": str(ranks.device),
        "timing": asdict(timing),
        "rows": rows,
    }
    return Played(board, answers, seconds)


def run_race(whole: Entered, other: Entered, size: int, timing: Timing, ranks: Ranks) -> Race:
    """Time a contestant against the baseline; against itself where it is the baseline."""
    queries = [each.queries(timing.queries, size) for each in (whole, other)]

    def lap(entered: Entered, own: Sequence[Query], number: int) -> None:
        answer_in_full(entered.stage, own[number % len(own)], timing.new_tokens)

    return race(
        partial(lap, whole, queries[0]),
        partial(lap, other, queries[1]),
        warm_up=timing.warm_up,
        trials=timing.queries,
        finish=finisher(ranks.device),
    )


def row(
    name: str, said: Answered, baseline: Answered, costs: Costs, races: Mapping[str, Race]
) -> dict[str, Any]:
    """What is known of a contestant.

    Raises:
        OptionError: it was asked something else than the baseline.
    """
    if said.answers != baseline.answers:
        raise OptionError(f"{name}: it answered other questions than the baseline")
    mine, theirs = said.measured(), baseline.measured()
    kept = ratio_interval(mine["token_f1"], theirs["token_f1"])
    whole_f1 = float(theirs["token_f1"].mean())
    return {
        "name": name,
        "measures": averages(mine),
        "intervals": intervals(mine),
        "differences": {
            measure: {
                "mean": float((mine[measure] - theirs[measure]).mean()),
                "interval": difference_interval(mine[measure], theirs[measure]),
            }
            for measure in mine
        },
        "f1_kept": {
            "ratio": float(mine["token_f1"].mean()) / whole_f1 if whole_f1 else None,
            "interval": kept,
        },
        "costs": {
            **asdict(costs),
            "reader_flops": costs.reader_flops,
            "total_flops": costs.total_flops,
        },
        "time": {
            size: {
                "median_ms_per_query": 1e3 * float(np.median(timed.other)) / int(size),
                "speedup": timed.speedup,
                "interval": timed.interval(),
            }
            for size, timed in races.items()
        },
    }


def compare_costs(rows: Sequence[dict[str, Any]]) -> None:
    """Put beside each count how many times less it is than the baseline's; None where it is 0."""
    whole = next(each for each in rows if each["name"] == WHOLE)["costs"]
    for each in rows:
        each["times_less"] = {
            name: whole[name] / value if value else None
            for name, value in each["costs"].items()
            if name != "rate"
        }


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
    choose_device(values.device)
    ranks = Ranks()
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
