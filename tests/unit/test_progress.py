"""Bars go to stderr, say how fast and how long, and draw nothing when switched off."""

from __future__ import annotations

import pytest

from gazetteer.progress import progress


def test_bar_shows_what_how_far_how_fast_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(4, "embedding", "passage", enabled=True) as bar:
        bar.update(3)
        bar.refresh()
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("embedding:  75%")
    assert "3/4 [" in last and "<" in last and "passage/s]" in last


def test_bytes_are_shown_in_larger_units(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(5_000_000, "reading", "B", enabled=True) as bar:
        bar.update(2_500_000)
    assert "2.50M/5.00M" in capsys.readouterr().err


def test_bar_that_is_not_enabled_draws_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(None, "reading", "B", enabled=False) as bar:
        bar.update(1)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
