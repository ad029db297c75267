"""Refreshes by processes set aside: real trainings on gloo ranks."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gazetteer.distributed.watch import host_name
from gazetteer.errors import TRY_AGAIN
from gazetteer.records import Ranks
from tests.support.ranks import free_port, run_on_ranks
from tests.support.runs import make_world, run_train

DEDICATED = {
    "refresh_mode": "dedicated",
    "refresh_index": "5",
    "train_retriever": True,
    "lr_retriever": 1e-2,
    "total_steps": 30,
    "accumulation_steps": 2,
    "save_freq": 1000,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def watched_run(ranks: Ranks, world: Path, name: str, **flags) -> list[dict] | int:
    """Train; what each version was that this trainer adopted, and when; or the exit code."""
    from gazetteer.indexing.embedding import RowEmbedder
    from gazetteer.indexing.keeper import IndexKeeper

    if ranks.is_set_aside:
        return signalled_run(ranks, world, name, **flags)
    now, adopted = [0], []
    original_tend, original_serve = IndexKeeper.tend, IndexKeeper._serve

    def tend(keeper: IndexKeeper, step: int, **due) -> bool:
        now[0] = step
        if keeper.in_progress is not None:
            time.sleep(0.02)  # Tiny models train faster than another process is scheduled.
        return original_tend(keeper, step, **due)

    def serve(keeper: IndexKeeper, version, vectors) -> None:
        tower = keeper._tower_with(version.weights)
        expected = torch.empty_like(vectors)
        RowEmbedder(tower, keeper._tokens, keeper.index.rows, keeper._retriever.batch,
                    out=expected, chunks=None).embed_all(show_progress=False)  # fmt: skip
        original_serve(keeper, version, vectors)
        adopted.append(
            {
                "ordered": version.step,
                "adopted": now[0],
                "weights": version.identity.encoder.weights,
                "error": float((keeper.index.embeddings - expected).abs().max()),
                "rows": len(vectors),
            }
        )

    IndexKeeper.tend, IndexKeeper._serve = tend, serve
    try:
        assert run_train(world, ranks, name=name, **flags) == 0
    finally:
        IndexKeeper.tend, IndexKeeper._serve = original_tend, original_serve
    return adopted


def signalled_run(ranks: Ranks, world: Path, name: str, **flags) -> int:
    """What a process set aside does; signals are for the trainers to heed."""
    from gazetteer.indexing import helping

    original = helping.embed

    def embed(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*args)

    helping.embed = embed
    return run_train(world, ranks, name=name, **flags)


def job(ranks: Ranks, world: Path, flags: dict) -> list[dict] | int:
    return watched_run(ranks, world, "dedicated", **DEDICATED, **flags)


ADAPTERS = {"lora_rank": 2, "add_linear_head": True, "projection_out_dim": 8}


@pytest.mark.parametrize("flags", [{}, ADAPTERS], ids=["weights", "adapters and head"])
def test_versions_are_adopted_whole_at_the_same_step(tmp_path: Path, flags: dict) -> None:
    world = make_world(tmp_path)
    first, second, code = run_on_ranks(job, 3, world, flags, set_aside=1)
    assert code == 0
    assert len(first) >= 3
    assert [version["rows"] for version in (first[0], second[0])] == [20, 20]
    for one, other in zip(first, second, strict=True):
        for fact in ("ordered", "adopted", "weights"):
            assert one[fact] == other[fact]
        # The very vectors that a blocking refresh with the same weights would give.
        assert max(one["error"], other["error"]) < 1e-6
        assert one["ordered"] < one["adopted"]
    assert len({version["weights"] for version in first}) == len(first)
    log = (world / "experiments" / "dedicated" / "run.log").read_text()
    for version in first:
        assert f"searching the index of step {version['ordered']}" in log
    # Nothing is left of them, and metrics are those of two workers.
    assert not (world / "experiments" / "dedicated" / "refresh").exists()
    state = world / "experiments" / "dedicated" / "checkpoint" / "latest" / "state.json"
    assert json.loads(state.read_text())["position"]["examples"] == 30 * 2 * 2


ROOT = Path(__file__).resolve().parents[2]


class Program:
    """Processes of one start of train.py, as a launcher would start them."""

    def __init__(self, world: Path, processes: int, *, nap_seconds: float, **flags: object) -> None:
        port = free_port()
        words = ["--refresh_workers", str(processes - 1)]
        for name, value in flags.items():
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, ROOT / "tests/support/slow_refresh.py", str(nap_seconds), *words],
                env=os.environ
                | {
                    "PYTHONPATH": str(ROOT / "src"),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "LOCAL_WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def wait_for(self, holds: Callable[[], object], seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            ended = [p for p in self.processes if p.poll() is not None]
            assert not ended, ended[0].communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end_of(self, rank: int) -> tuple[int, list[str]]:
        """Exit code, and what it said in the end."""
        _, text = self.processes[rank].communicate(timeout=60)
        return self.processes[rank].returncode, text.splitlines()[-1:]


def test_processes_that_are_killed_are_missed_and_the_same_command_goes_on(world: Path) -> None:
    folder = world / "experiments" / "killed"
    flags = DEDICATED | {
        "task": "qa", "name": "killed", "checkpoint_dir": world / "experiments",
        "train_data": world / "train.jsonl", "eval_data": world / "dev.jsonl",
        "passages": world / "passages.jsonl", "reader_model_type": world / "reader",
        "retriever_model_path": world / "retriever", "n_context": 2, "retriever_n_context": 3,
        "text_maxlength": 64, "save_freq": 10, "total_steps": 100_000, "no_progress": True,
        "collective_timeout_seconds": 3,
    }  # fmt: skip

    def log() -> str:
        return (folder / "run.log").read_text() if (folder / "run.log").exists() else ""

    def pieces() -> int:
        return len(list((folder / "refresh").glob("*/rows.*")))

    with Program(world, 2, nap_seconds=0.3, **flags) as first:
        first.wait_for(lambda: "saved" in log() and pieces() >= 3)
        first.processes[1].kill()
        code, words = first.end_of(0)
    assert code == TRY_AGAIN
    assert words == [
        f"train.py: error: embedding worker 0 of 1 on {host_name(os.environ)} (--refresh_workers) "
        "was not heard of for 3 s (--collective_timeout_seconds)"
    ]
    assert log().count("is late: that of step 5 is still being embedded") == 1
    assert "searching the index of step 5" not in log()
    left = pieces()
    with Program(world, 3, nap_seconds=0, **flags) as second:
        second.wait_for(lambda: "searching the index of step 5" in log())
        kept = re.findall(r"refresh of step 5 ordered; .* (\d+) rows were embedded before", log())
        assert [int(rows) for rows in kept] == [5 * left]
        # What fell due meanwhile begins then.
        second.wait_for(lambda: log().count("searching the index of step") >= 2)
        second.processes[0].kill()
        ends = [second.end_of(rank) for rank in (1, 2)]
    assert [code for code, _ in ends] == [TRY_AGAIN, TRY_AGAIN]
    for worker, (_, words) in enumerate(ends):
        assert words[0].startswith(
            f"train.py: error: embedding worker {worker}: the trainers are gone ("
        )
