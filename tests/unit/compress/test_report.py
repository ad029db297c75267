from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gazetteer.compress.measures import Answered
from gazetteer.compress.plots import draw_comparison, draw_curves, draw_speed, moving_average
from gazetteer.compress.report import improvements, metrics_report, results, write_reports

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def before() -> dict:
    said = Answered(("q",) * 7, ("x y",) * 7, (("a b",),) * 7)
    return results(said, np.array([0.01, 0.03]))


@pytest.fixture
def after() -> dict:
    said = Answered(("q",) * 7, ("a b",) * 7, (("a b",),) * 7)
    return results(said, np.array([0.01, 0.01]))


def test_there_is_no_percentage_of_nothing(before: dict, after: dict, tmp_path: Path) -> None:
    report = metrics_report(before, after, before)
    assert report["improvements"]["exact_match_avg"] == {"absolute": 1.0, "relative": None}
    assert report["speed_statistics"]["speedup"] == pytest.approx(2.0)
    write_reports(tmp_path, before, after, report)
    for name in ("metrics_report", "before_training_results", "after_training_results"):
        text = (tmp_path / f"{name}.json").read_text()
        assert "NaN" not in text and "Infinity" not in text
        assert json.loads(text)


def test_a_fall_is_negative() -> None:
    assert improvements({"f": 0.5}, {"f": 0.25})["f"] == {"absolute": -0.25, "relative": -50.0}


def test_times_and_samples(before: dict) -> None:
    assert before["speed_stats"] == pytest.approx(
        {"mean_ms": 20, "std_ms": 10, "min_ms": 10, "max_ms": 30, "throughput_qps": 50}
    )
    assert len(before["sample_predictions"]) == 5
    assert before["sample_predictions"][0] == {
        "query": "q",
        "prediction": "x y",
        "answers": ["a b"],
    }


def test_a_moving_average_is_whole() -> None:
    assert moving_average([1.0, 2.0]).tolist() == [1.0, 2.0]
    smooth = moving_average(list(range(40)))
    assert len(smooth) == 37 and smooth[0] == pytest.approx(1.5)


@pytest.mark.parametrize("lines", [[], [{"kind": "train", "step": 1, "loss/train_loss": 2.0}]])
def test_every_plot_is_drawn(before: dict, after: dict, tmp_path: Path, lines: list) -> None:
    lines = [*lines, {"kind": "eval", "step": 1, "eval.jsonl/f1": 20.0}] if lines else lines
    draw_curves(tmp_path / "curves.png", lines)
    draw_comparison(tmp_path / "comparison.png", metrics_report(before, after, before))
    draw_speed(tmp_path / "speed.png", {"a": np.array([0.1]), "b": np.array([0.2, 0.3])}, "2x")
    for name in ("curves", "comparison", "speed"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
