"""A run with checkpoints that is about to save another: what a kill or a full disk then meets."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from gazetteer.compute import random_state, restore_random_state
from gazetteer.data_files import open_data
from gazetteer.files import MANIFEST, read_files_of
from gazetteer.records import Ranks
from gazetteer.stats import WeightedStats
from gazetteer.training.building import build_training
from gazetteer.training.checkpoint import CheckpointFolder
from gazetteer.training.loop import update
from gazetteer.training.run import TrainingRun
from tests.support.runs import options_of

SAVED = (1, 2, 3)
"""Steps whose checkpoints were acknowledged; the first has no optimiser state any more."""
NEXT = 4


class SavedRun:
    """Three checkpoints, and the state of step 4 in memory.

    Args:
        world: models and data.
        flags: of the run.
    """

    def __init__(self, world: Path, **flags: object) -> None:
        disable_progress_bar()
        options = options_of(world, "train", name="saved-run", total_steps=9, **flags)
        self.run: TrainingRun = build_training(
            options, Ranks(), open_data(options, Ranks(), is_training=True)
        )
        self.folder = self.run.checkpoints.path
        for _ in SAVED:
            update(self.run, WeightedStats())
            self.run.save()
        update(self.run, WeightedStats())
        self._before = shutil.copytree(self.folder, world / "before", symlinks=True)
        self.known = {step: self._content(step) for step in SAVED}
        self._random = random_state()
        self.run.save()
        self.known |= {step: self._content(step) for step in (*SAVED, NEXT)[1:]}
        self.put_back()

    def put_back(self) -> None:
        """As it was before the save. Links suffice: nothing that has its name is written to."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._before, self.folder, symlinks=True, copy_function=os.link)

    def save(self) -> None:
        """What is interrupted."""
        restore_random_state(self._random)
        self.run.save()

    def lost(self, expected: int) -> list[str]:
        """What is not as it should be, once the save was interrupted.

        Args:
            expected: step of the newest checkpoint that was acknowledged.
        """
        found = CheckpointFolder(self.folder).newest_intact()
        if found is None:
            return ["no checkpoint is intact"]
        step = int(found.name.removeprefix("step-"))
        problems = [] if step >= expected else [f"resumes at {step}, acknowledged was {expected}"]
        if self._content(step) != self.known[step]:
            problems.append(f"step {step} has other content")
        latest = self.folder / "latest"
        if not (latest / MANIFEST).is_file():
            problems.append("latest leads nowhere")
        json.loads((found / "state.json").read_text())
        return problems

    def _content(self, step: int) -> dict[str, str]:
        """Hashes by name, without the optimisers, which are dropped from old checkpoints."""
        files = read_files_of(self.folder / f"step-{step}")
        return {n: about["sha256"] for n, about in files.items() if "optimiser" not in n}
