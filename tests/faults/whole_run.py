"""A whole run of train.py, in a copy of this process: everything that it writes can fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

import train
from gazetteer.index.verification import find_problems
from gazetteer.program import run_program
from gazetteer.training.checkpoint import CheckpointFolder
from tests.support.kill_points import Fault, in_child
from tests.support.runs import make_world, words_of

STEPS = 4


class WholeRun:
    """A short run with a refresh that saves its index and four checkpoints, and evaluates.

    Args:
        folder: to work in.
        experiments: where the run writes; None: in the folder. May be a disk of its own.
        flags: of the run, more than those below.
    """

    def __init__(self, folder: Path, experiments: Path | None = None, **flags: object) -> None:
        self.folder = make_world(folder / "world", corpus=12, train=8, dev=2)
        self.experiments = experiments or self.folder / "experiments"
        self.output = folder / "output.txt"
        self._words = words_of(
            self.folder,
            "train",
            name="run",
            checkpoint_dir=self.experiments,
            save_index_path=self.experiments / "index",
            save_index_n_shards=1,
            train_retriever=True,
            refresh_index="2",
            total_steps=STEPS,
            save_freq=1,
            dropout=0.1,
            **flags,
        )
        assert self.go(Fault()) == 0, self.said()
        self.expected = self.weights(STEPS)

    def go(self, fault: Fault) -> int:
        """Run the command, with this fault; its exit code."""
        return in_child(self.work, self.experiments, replace(fault, output=self.output))

    def work(self) -> int:
        """The command, in this process."""
        return run_program("train", train.job, self._words)

    def said(self) -> str:
        """What the last command wrote to stdout and stderr."""
        return self.output.read_text(errors="replace")

    def start_over(self) -> None:
        """Remove what the run wrote."""
        for path in self.experiments.iterdir():
            shutil.rmtree(path)

    def acknowledged(self) -> int:
        """The last step whose checkpoint the run called saved; 0 for none."""
        lines = [line for line in self.said().splitlines() if " - saved " in line]
        return int(lines[-1].rpartition("step-")[2]) if lines else 0

    def newest(self) -> int:
        """Step of the newest intact checkpoint; 0 for none."""
        found = CheckpointFolder(self.experiments / "run" / "checkpoint").newest_intact()
        return 0 if found is None else int(found.name.removeprefix("step-"))

    def weights(self, step: int) -> dict[str, Tensor]:
        """Of reader and retriever."""
        folder = self.experiments / "run" / "checkpoint" / f"step-{step}"
        return {
            f"{part}/{name}": tensor.clone()
            for part in ("reader", "retriever")
            for name, tensor in load_file(folder / part / "model.safetensors").items()
        }

    def lost(self) -> list[str]:
        """After a fault: what is missing, and whether the same command ends with the same bits."""
        problems = []
        acknowledged, newest = self.acknowledged(), self.newest()
        if newest < acknowledged:
            problems.append(f"resumes at {newest}, acknowledged was {acknowledged}")
        if self.go(Fault()) != 0:
            return [*problems, f"the same command does not go on: {self.said()[-2000:]}"]
        found = self.weights(STEPS)
        if any(not found[name].equal(tensor) for name, tensor in self.expected.items()):
            problems.append("other weights in the end")
        problems += find_problems(self.experiments / "index", lambda _: None)
        lines = (self.experiments / "run" / "metrics.jsonl").read_text().splitlines()
        if not all(isinstance(json.loads(line), dict) for line in lines):
            problems.append("metrics.jsonl is torn")
        return problems
