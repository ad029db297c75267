"""Hard negatives mined in the loop: on any number of workers, and over a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gazetteer.dense.mining import MINED_FILE
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.records import Ranks
from gazetteer.training import run as training_run
from tests.support.dense_runs import dense_options_of, run_dense, training_lines
from tests.support.ranks import run_on_ranks
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import save_tiny_retriever

MINING = {"mine_negatives": 4, "mine_depth": 20, "refresh_index": 2, "train_n_passages": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines without negatives; all passages are in a corpus of their own."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny_retriever(folder / "retriever")
    lines = training_lines(20)
    passages = [each for line in lines for each in (*line["positives"], *line["negatives"])]
    write_jsonl(folder / "passages.jsonl", passages)
    bare = [
        line | {"positives": [{"id": each["id"]} for each in line["positives"]], "negatives": []}
        for line in lines
    ]
    # Another line with the same query and another positive.
    bare.append(bare[0] | {"positives": bare[1]["positives"]})
    write_jsonl(folder / "train.jsonl", bare)
    return folder


def mine(world: Path, ranks: Ranks | None = None, **flags: Any) -> int:
    return run_dense(world, ranks, passages=world / "passages.jsonl", **(MINING | flags))


def mined(world: Path, name: str, step: int) -> np.ndarray:
    return load_file(checkpoint(world, name, step) / MINED_FILE)["rows"].numpy()


def checkpoint(world: Path, name: str, step: int) -> Path:
    return world / "experiments" / name / "checkpoint" / f"step-{step}"


def weights(world: Path, name: str, step: int) -> dict[str, torch.Tensor]:
    return load_file(checkpoint(world, name, step) / "retriever" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(world: Path) -> dict[str, torch.Tensor]:
    """Weights of a run that nobody interrupted."""
    assert mine(world, name="whole", save_freq=1, mine_memory=0.5) == 0
    return weights(world, "whole", 6)


def test_negatives_are_mined_anew_with_every_refresh(
    world: Path, whole: dict[str, torch.Tensor]
) -> None:
    rows = {step: mined(world, "whole", step) for step in (1, 2, 3, 5, 6)}
    assert rows[1].shape == (21, 4)
    # A refresh comes before the micro-batches 2 and 4.
    assert np.array_equal(rows[1], rows[2]) and np.array_equal(rows[5], rows[6])
    assert not np.array_equal(rows[2], rows[3]) and not np.array_equal(rows[3], rows[5])
    lines = [json.loads(line) for line in (world / "passages.jsonl").read_text().splitlines()]
    place = {line["id"]: row for row, line in enumerate(lines)}
    for number in range(21):
        positives = {place[f"p{number}"]} if 0 < number < 20 else {place["p0"], place["p1"]}
        for step in rows:
            assert not positives & set(rows[step][number].tolist())
    # Half of them stay.
    kept = [len(set(a) & set(b)) for a, b in zip(rows[2].tolist(), rows[3].tolist(), strict=True)]
    assert min(kept) >= 2
    log = (world / "experiments" / "whole" / "run.log").read_text()
    assert log.count("mined for 21 lines") == 3
    report = json.loads((world / "experiments/whole/mining.json").read_text(encoding="utf-8"))
    assert list(report) == ["0", "2", "4"]
    assert report["4"]["negatives"] == 84
    assert report["4"]["dropped"]["judged relevant"] > 0
    assert "dropped, judged relevant: " in log


def test_a_killed_run_goes_on_bit_for_bit(
    world: Path, whole: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = training_run.TrainingRun.save

    def save_and_die(run: training_run.TrainingRun) -> None:
        save(run)
        if run.state.position.micro_batches == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(training_run.TrainingRun, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        mine(world, name="killed", save_freq=1, mine_memory=0.5)
    monkeypatch.undo()
    # Saved beside training from here on.
    assert mine(world, name="killed", save_freq=1, mine_memory=0.5, async_save=True) == 0
    assert np.array_equal(mined(world, "killed", 6), mined(world, "whole", 6))
    reports = [world / "experiments" / name / "mining.json" for name in ("killed", "whole")]
    assert reports[0].read_text() == reports[1].read_text()
    assert same(weights(world, "killed", 6), whole)
    with pytest.raises(CheckpointError, match="4 negatives for each of 21 lines, in use are 5"):
        mine(world, name="killed", mine_negatives=5, total_steps=8)


def _train(ranks: Ranks, world: Path, name: str) -> None:
    mine(world, ranks, name=name, per_gpu_batch_size=2, total_steps=3, save_freq=1)


def test_two_workers_mine_the_same(world: Path) -> None:
    run_on_ranks(_train, 2, world, "two")
    assert mine(world, name="one", total_steps=3, save_freq=1) == 0
    assert np.array_equal(mined(world, "one", 1), mined(world, "two", 1))


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({"mine_depth": 3}, r"--mine_depth \(3\) must be at least --mine_negatives \(4\)"),
        ({"passages": None}, "must come with --passages"),
        ({"query_side_retriever_training": True}, "must not come with --query_side"),
        ({"dense_loss": "kl"}, "must not come with --dense_loss kl"),
    ],
)
def test_what_does_not_go_together(world: Path, flags: dict[str, Any], problem: str) -> None:
    given = {"passages": world / "passages.jsonl"} | MINING | flags
    with pytest.raises(OptionError, match=problem):
        dense_options_of(world, **given)
