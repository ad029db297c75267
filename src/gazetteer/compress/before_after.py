"""The end of `train_with_evaluation.py`: before and after, beside what compresses nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from gazetteer.compress import contest, plots, report, scoreboard
from gazetteer.compress import words as mapping
from gazetteer.compress.devices import alone
from gazetteer.compress.lines import read_both, write_lines
from gazetteer.compress.playing import Played, play
from gazetteer.options import parse_options
from gazetteer.reporting import start_log

BEFORE, AFTER, TRAINED_WHOLE = (
    "compressed, before training",
    "compressed, after training",
    "uncompressed, trained reader",
)


def compare(values: argparse.Namespace, final: Path) -> None:
    """Evaluate, and write reports and plots.

    Args:
        values: of the command line.
        final: the trained checkpoint.
    """
    ranks = alone()
    start_log(ranks)
    output: Path = values.output_dir
    folder = output / "scoreboard"
    rows = contestants(values, final, folder)
    played = play(rows, folder, scoreboard.timing_of(values), ranks)
    sys.stdout.write("\n" + scoreboard.write(played.board, folder))
    results = {
        name: report.results(played.answers[name], played.seconds[name])
        for name in (BEFORE, AFTER, contest.WHOLE)
    }
    found = report.metrics_report(results[BEFORE], results[AFTER], results[contest.WHOLE])
    report.write_reports(output, results[BEFORE], results[AFTER], found)
    draw(output, found, played)
    sys.stdout.write("\n" + report.summary(found) + f"\n{output}: reports, plots, {final}\n")


def draw(output: Path, found: dict[str, Any], played: Played) -> None:
    """The three plots."""
    plots.draw_comparison(output / plots.COMPARISON, found)
    metrics = plots.read_metrics(output / mapping.RUN / "metrics.jsonl")
    plots.draw_curves(output / plots.CURVES, metrics)
    shown = {"uncompressed": contest.WHOLE, "before": BEFORE, "after": AFTER}
    faster = found["speed_statistics"]["speedup_over_uncompressed"]
    plots.draw_speed(
        output / plots.SPEED,
        {label: played.seconds[name] for label, name in shown.items()},
        f"{faster:.2f}x as fast as uncompressed",
    )


def contestants(values: argparse.Namespace, final: Path, folder: Path) -> list[contest.Contestant]:
    """Rows: the untrained and the trained compressor, and what compresses nothing.

    The baseline is the generator as it came, reading whole passages.
    """
    lines = {"given": mapping.lines_of(values)["eval"], "bm25": folder / "bm25.jsonl"}
    words = [*mapping.model_words(values), *mapping.task_words(values)]
    words += ["--n_context", str(values.eval_documents), "--checkpoint_dir", str(folder)]

    def untrained(name: str, *more: str) -> contest.Contestant:
        named = ["--name", contest.slug(name)]
        return contest.Contestant(name, parse_options([*words, *named, *more], program="evaluate"))

    given = {
        "eval_data": [str(lines["given"])],
        "use_file_passages": True,
        "n_context": values.eval_documents,
    }
    rows = [untrained(contest.WHOLE, "--compressor", "none")]
    if not values.no_scoreboard:
        _, judged, _ = read_both(values.train_data, values.eval_data)
        by_words = contest.best_by_words(judged[: values.max_eval_examples])
        write_lines(lines["bm25"], by_words, scored=False)
        plain, one = ("--compressor", "none"), ("--n_context", "1")
        rows = [
            untrained(contest.CLOSED, *plain, "--closed_book"),
            *rows,
            untrained(contest.FIRST, *plain, *one),
            untrained(contest.BM25, *plain, *one, "--eval_data", str(lines["bm25"])),
            contest.contestant(TRAINED_WHOLE, final, folder, {**given, **contest.NO_COMPRESSOR}),
        ]
    after = contest.contestant(AFTER, final, folder, given)
    return [*rows, untrained(BEFORE), after]
