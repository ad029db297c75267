"""The figure of docs/studies/joint-pretraining.md: every fine-tuning run as two dots."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from joint_pretraining_report import NAMES, Study, read_study


def draw(study: Study, path: Path) -> None:
    """A panel for each number of questions; a line for each way to pre-train and to fine-tune."""
    import matplotlib

    matplotlib.use("Agg")
    # Text stays text, and the file the same for the same runs.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "study"})
    import matplotlib.pyplot as plt

    order = list(NAMES)
    rows = sorted(
        {(run.pretraining, run.method) for run in study.tuned if run.method != "closed"},
        key=lambda row: [order.index(name) for name in row],
    )
    shots = sorted({run.shots for run in study.tuned})
    figure, panels = plt.subplots(
        1, len(shots), figsize=(4 * len(shots) + 2.5, 4), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for panel, count in zip(panels[0], shots, strict=True):
        runs = [run for run in study.tuned if run.shots == count and run.method != "closed"]
        places = [rows.index((run.pretraining, run.method)) for run in runs]
        for metric, label, marker in (
            ("answer_recall@1", "recall@1 of the retriever", "o"),
            ("exact_match", "exact match", "x"),
        ):
            values = [run.metrics[metric] for run in runs]
            panel.scatter(values, places, marker=marker, label=label, alpha=0.7)
        panel.set_title(f"fine-tuned on {count} questions")
        panel.set_xlabel("% of questions; each mark is a seed")
        panel.grid(axis="x", alpha=0.3)
    names = [f"{NAMES[before]} / {NAMES[method]}" for before, method in rows]
    panels[0][0].set_yticks(range(len(rows)), names)
    panels[0][0].invert_yaxis()
    panels[0][0].set_ylabel("pre-training / fine-tuning")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="what the study was given")
    parser.add_argument("--output", type=Path, required=True, help="file to draw: .svg or .png")
    options = parser.parse_args(arguments)
    if not (options.folder / "seconds").is_dir():
        parser.error(f"--folder ({options.folder}): no study was run there")
    study = read_study(options.folder)
    if not study.tuned:
        parser.error(f"--folder ({options.folder}): nothing was fine-tuned yet")
    draw(study, options.output)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
