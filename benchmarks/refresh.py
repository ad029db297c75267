"""Training while the index is refreshed, against the same training without, in the three modes.

Two processes of one thread, tiny models: blocking and interleaved train on both, dedicated trains
on one and embeds on the other. Wall time of a training step; a refresh is under way from the
micro-batch at which it falls due to the one that adopts it. Where there are no more cores than
processes, as here, those set aside compete with nobody for theirs; memory bandwidth is shared.

    python -m benchmarks.refresh
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.multiprocessing as mp

from benchmarks.measure import Timing, report
from gazetteer.distributed.launch import process_group
from gazetteer.options import Options, parse_options
from gazetteer.program import processes_set_aside
from gazetteer.training import loop
from gazetteer.training.run import TrainingRun
from tests.support.runs import make_world

MODES = ("blocking", "interleaved", "dedicated")
PROCESSES = 2
PASSAGES, EVERY, SLICES = 6_000, 150, 60
"""Steps between two refreshes, and of an interleaved one."""
Step = tuple[float, int | None]
"""When a micro-batch began, and the step of the version that was under way in it, if one was."""


def options_of(world: Path, mode: str, refreshes: int) -> Options:
    """A training with so many refreshes, all of them adopted before the end."""
    flags = {
        "task": "qa",
        "name": mode,
        "checkpoint_dir": world / "runs",
        "cache_dir": world / "cache",
        "train_data": world / "train.jsonl",
        "eval_data": world / "dev.jsonl",
        "passages": world / "passages.jsonl",
        "reader_model_type": world / "reader",
        "retriever_model_path": world / "retriever",
        "text_maxlength": 64,
        "n_context": 4,
        "retriever_n_context": 4,
        "per_gpu_batch_size": 4,
        "log_freq": 1_000_000,
        "eval_freq": 1_000_000,
        "save_freq": 1_000_000,
        "total_steps": EVERY * (refreshes + 1),
        "warmup_steps": 1,
        "refresh_index": EVERY,
        "refresh_mode": mode,
        "refresh_steps": SLICES,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return parse_options([*words, "--train_retriever", "--no_progress"], program="train")


def worker(rank: int, port: int, world: Path, mode: str, refreshes: int, out: Path) -> None:
    """One process of a training; rank 0 writes when each micro-batch began and what went on."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": PROCESSES, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(PROCESSES)}
    torch.set_num_threads(1)
    steps: list[Step] = []
    original = loop._tend_index

    def tend(run: TrainingRun, clock: loop.Stopwatch) -> None:
        assert run.retrieving is not None
        keeper, start = run.retrieving.keeper, time.perf_counter()
        before, served = keeper.in_progress, keeper.step
        original(run, clock)
        under_way = before or keeper.in_progress
        version = under_way.step if under_way else None
        steps.append((start, keeper.step if keeper.step != served else version))

    loop._tend_index = tend
    options = options_of(world, mode, refreshes)
    with process_group(set_aside=processes_set_aside(options, "train")) as ranks:
        logging.disable(logging.INFO)
        loop.train(options, ranks)
        if ranks.is_main:
            steps.append((time.perf_counter(), None))
            out.write_text(json.dumps(steps))


def train(world: Path, mode: str, refreshes: int) -> list[Step]:
    """Start the processes of one training and wait for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out = world / f"{mode}.json"
    context = mp.get_context("spawn")
    processes = [
        context.Process(target=worker, args=(rank, port, world, mode, refreshes, out))
        for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(f"{mode}: a process failed")
    return [(start, version) for start, version in json.loads(out.read_text())]


def measure(mode: str, steps: list[Step]) -> None:
    """Mean seconds per step while each refresh was under way, and in the steps before it."""
    seconds: dict[int, list[float]] = {}
    quiet: dict[int, list[float]] = {}
    for number, ((start, version), (end, _)) in enumerate(pairwise(steps)):
        if version is not None:
            seconds.setdefault(version, []).append(end - start)
        elif number % EVERY > EVERY // 10:  # Not right after a refresh: caches are cold.
            quiet.setdefault(number // EVERY, []).append(end - start)
    during = Timing([statistics.mean(times) for times in seconds.values()])
    without = Timing([statistics.mean(times) for times in quiet.values()])
    lost = [sum(times) - len(times) * without.median for times in seconds.values()]
    report(
        f"refresh_{mode}",
        f"Seconds per training step, --refresh_mode {mode} (wall time)",
        {"without a refresh": without, "while one is under way": during},
        "without a refresh",
        {
            "processes that train": PROCESSES - (mode == "dedicated"),
            "passages": PASSAGES,
            "refreshes": len(seconds),
            "steps under way": statistics.median(len(times) for times in seconds.values()),
            "steps per second without": round(1 / without.median, 2),
            "steps per second while one is under way": round(1 / during.median, 2),
            "seconds of training lost to one refresh": round(statistics.median(lost), 2),
        },
    )


def main() -> None:
    """Train in each mode and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refreshes", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        world = make_world(Path(scratch), corpus=PASSAGES, train=400)
        for mode in options.modes:
            measure(mode, train(world, mode, options.refreshes))


if __name__ == "__main__":
    main()
