"""The contest behind the scoreboard: every contestant answers, and what it costs is measured.

Not for several workers: costs are those of one process.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer import build
from gazetteer.adapters import merge_adapters
from gazetteer.compress.contest import WHOLE, Contestant
from gazetteer.compress.costs import Costs, Query, Race, answer_in_full, count_costs, finisher, race
from gazetteer.compress.measures import (
    Answered,
    averages,
    difference_interval,
    intervals,
    ratio_interval,
    read_answers,
)
from gazetteer.compute import seed_everything
from gazetteer.data.sampling import Draw
from gazetteer.data_files import open_data
from gazetteer.errors import OptionError
from gazetteer.evaluation.loop import ReadingStage
from gazetteer.evaluation.run import Evaluation, build_evaluation
from gazetteer.records import Ranks
from gazetteer.reporting import start_experiment
from gazetteer.stats import Stopwatch


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
    """What a contestant says to every question; written to `results` as well.

    Afterwards its reader is as it would be served, adapters in its weights: costs are measured so.
    """
    evaluation = entered.evaluation
    evaluation.evaluator.evaluate(evaluation.batches, evaluation.passages, results, evaluation.name)
    merge_adapters(entered.stage.reader.model)
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
