"""The run that all cases interrupt: a small reader, shuffled data, dropout, saved often."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from gazetteer.records import Ranks
from tests.support.runs import run_train

SETTINGS = {
    "closed_book": True,
    "passages": None,
    "retriever_model_path": None,
    "total_steps": 100,
    "save_freq": 10,
    "shuffle": True,
    "dropout": 0.1,
    "collective_timeout_seconds": 60,
}


def whole_job(ranks: Ranks, world: Path, name: str) -> None:
    """A run that nothing interrupts."""
    run_train(world, ranks, name=name, **SETTINGS)


def require_equal(world: Path, whole: str, name: str) -> None:
    """Weights and state of the optimiser have the same bits in two runs."""
    for file in ("reader/model.safetensors", "reader_optimiser.safetensors"):
        first, second = (
            load_file(world / "experiments" / run / "checkpoint/latest" / file)
            for run in (whole, name)
        )
        assert all(first[key].equal(second[key]) for key in first), file
