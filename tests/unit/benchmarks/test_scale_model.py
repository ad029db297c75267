"""The simulator against what real workers were seen to do, and against itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.scale_arithmetic import payloads, search_seconds, sent, state_bytes
from benchmarks.scale_model import CHECK, H200, T5_LARGE, T5_SMALL, core


def test_the_bytes_of_every_collective_are_those_counted_in_real_runs() -> None:
    found = json.loads(CHECK.read_text(encoding="utf-8"))
    load = replace(T5_SMALL, **found["workload"])
    assert set(found["runs"]) == {"1", "2", "3", "4"}
    for workers, run in found["runs"].items():
        assert run["bytes"] == payloads(load, int(workers), found["rows"], found["gradients"])


def test_models_have_about_the_weights_they_are_known_for() -> None:
    assert T5_SMALL.reader_weights == pytest.approx(60.5e6, rel=0.01)
    # v1.1 has a second table for its output.
    assert T5_LARGE.reader_weights + 32_128 * 1024 == pytest.approx(783e6, rel=0.01)
    assert T5_LARGE.retriever_weights == pytest.approx(109e6, rel=0.01)


def test_more_workers_search_more_queries_in_fewer_rows() -> None:
    # Scoring stays, reading rows shrinks.
    few, many = (search_seconds(H200, T5_LARGE, workers, 10**8) for workers in (8, 4096))
    scoring = 10**8 * T5_LARGE.dim * T5_LARGE.queries * H200.score
    assert few > many > scoring


def test_what_leaves_a_worker_is_bounded_where_it_is_reduced() -> None:
    assert sent("gradients", 100, 2) == 100
    assert sent("gradients", 100, 4096) < 200
    assert sent("queries", 100, 4096) == 100 * 4095
    assert sent("hits", 100, 4) == 75


def test_sharding_leaves_less_to_hold() -> None:
    held = [
        state_bytes(T5_LARGE, 8, optimiser=optimiser, all_of_it=everything)
        for optimiser, everything in ((False, False), (True, False), (True, True))
    ]
    weights = T5_LARGE.reader_weights + T5_LARGE.retriever_weights
    assert held == [16 * weights, (4 + 12 / 8) * weights, 2 * weights]


def test_constants_of_a_core_are_those_of_one() -> None:
    assert 1e9 < core().train < 1e12
    assert core().score > 0 and core().scan > 0
