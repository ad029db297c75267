"""The three pictures of a training: answers before and after, its curves, and times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gazetteer.optional_packages import import_optional

COMPARISON, CURVES, SPEED = (
    "before_after_comparison.png",
    "training_curves.png",
    "speed_comparison.png",
)
BARS = {"exact_match_avg": "exact match", "token_f1_avg": "token F1", "rouge_l_avg": "ROUGE-L"}
EXTRA = "gazetteer[compress]"
RED, GREEN, GREY = "#c0392b", "#27ae60", "#7f8c8d"


def figures() -> Any:  # noqa: ANN401 - a module
    """The module `pyplot`, drawing to files alone.

    Raises:
        OptionError: matplotlib is not installed.
    """
    import_optional("matplotlib", "plots need matplotlib", EXTRA).use("Agg")
    return import_optional("matplotlib.pyplot", "plots need matplotlib", EXTRA)


def moving_average(values: Sequence[float]) -> np.ndarray:
    """Averages over a window of min(50, n / 10) values, where it is whole."""
    window = max(1, min(50, len(values) // 10))
    return np.convolve(values, np.ones(window) / window, mode="valid")


def draw_comparison(path: Path, report: Mapping[str, Any]) -> None:
    """Three metrics side by side: red before, green after, and the change in percent above."""
    plt = figures()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    before, after = report["before_training"], report["after_training"]
    for shift, values, colour, label in (
        (-0.2, before, RED, "before training"),
        (0.2, after, GREEN, "after training"),
    ):
        places = [place + shift for place in range(len(BARS))]
        bars = axes.bar(places, [values[n] for n in BARS], 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.3f", fontsize=8)
    for place, name in enumerate(BARS):
        change = report["improvements"][name]["relative"]
        text = "from 0" if change is None else f"{change:+.0f} %"
        axes.text(place, max(before[name], after[name]) + 0.06, text, ha="center", fontsize=9)
    axes.set_xticks(range(len(BARS)), list(BARS.values()))
    axes.set_ylim(0, min(1.15, max(0.2, 0.12 + max(max(before[n], after[n]) for n in BARS))))
    axes.legend(loc="upper left", fontsize=8)
    axes.set_title("Answers from compressed passages")
    _save(plt, figure, path)


def draw_curves(path: Path, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Loss over steps, smoothed as well, and a panel for each metric of evaluations on the way.

    Args:
        path: of the picture.
        metrics: lines of metrics.jsonl.
    """
    plt = figures()
    losses = [line for line in metrics if line.get("kind") == "train"]
    tests = [line for line in metrics if line.get("kind") == "eval"]
    shown = [n for n in ("exact_match", "f1") if any(_ends(line, n) for line in tests)]
    figure, panels = plt.subplots(
        1, 1 + len(shown), figsize=(6 + 3.5 * len(shown), 4), layout="constrained", squeeze=False
    )
    steps = [line["step"] for line in losses]
    values = [line["loss/train_loss"] for line in losses]
    first = panels[0][0]
    first.plot(steps, values, color=GREY, alpha=0.5, label="as logged")
    if values:
        smooth = moving_average(values)
        first.plot(steps[len(steps) - len(smooth) :], smooth, color=RED, label="moving average")
        first.legend(fontsize=8)
    first.set(title="training loss", xlabel="step")
    for panel, name in zip(panels[0][1:], shown, strict=True):
        points = [(line["step"], value) for line in tests for value in _ends(line, name)]
        panel.plot(*zip(*points, strict=True), color=GREEN, marker="o")
        panel.set(title=f"{name} in evaluation", xlabel="step", ylim=(0, None))
    _save(plt, figure, path)


def _ends(line: Mapping[str, Any], name: str) -> list[float]:
    return [value for key, value in line.items() if key.endswith(f"/{name}")]


def draw_speed(path: Path, seconds: Mapping[str, np.ndarray], title: str) -> None:
    """Histogram of times, and their means.

    Args:
        path: of the picture.
        seconds: float64 (trial) by name.
        title: says how much faster, than what.
    """
    plt = figures()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    colours = dict(zip(seconds, (RED, GREEN, GREY), strict=False))
    for name, values in seconds.items():
        left.hist(1e3 * values, bins=20, alpha=0.5, color=colours[name], label=name)
    left.set(title="time of one query", xlabel="ms", ylabel="trials")
    left.legend(fontsize=8)
    means = [1e3 * float(values.mean()) for values in seconds.values()]
    bars = right.bar(list(seconds), means, color=list(colours.values()))
    right.bar_label(bars, fmt="%.1f ms", fontsize=8)
    right.set(title=title, ylabel="mean, ms")
    _save(plt, figure, path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; none where there is no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _save(plt: Any, figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib's
    figure.savefig(path, dpi=120)
    plt.close(figure)
