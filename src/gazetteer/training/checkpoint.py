"""Checkpoints: whole or absent, verified, and unable to execute anything.

A checkpoint is a folder of safetensors and JSON with a manifest of sizes and hashes. It is written
under another name and renamed by rank 0 after a barrier, so `step-N` is always complete.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gazetteer.distributed.agreement import main_first, raise_together
from gazetteer.errors import UnsavedError
from gazetteer.files import (
    MANIFEST,
    disk_problem,
    find_damage,
    naming,
    read_files_of,
    replace_manifest,
    sync,
    write_manifest,
)
from gazetteer.records import Ranks

logger = logging.getLogger(__name__)

LATEST = "latest"
OPTIMISER_FILES = "*_optimiser.safetensors"
KEPT_WITH_OPTIMISER = 2
"""Newest checkpoints that keep optimiser state without `--save_optimizer`: one to resume from, and
one to fall back to."""


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """The `checkpoint/` folder of an experiment.

    Attributes:
        path: holds `step-N` folders and the relative link `latest`.
    """

    path: Path

    def steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first."""
        names = (p.name for p in self.path.glob("step-*") if (p / MANIFEST).is_file())
        return sorted(int(name[5:]) for name in names if name[5:].isdecimal())

    def at(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.path / f"step-{step}"

    def newest_intact(self) -> Path | None:
        """The newest checkpoint whose files all match their hashes; damaged ones are named."""
        for step in reversed(self.steps()):
            damage = find_damage(self.at(step))
            if damage is None:
                return self.at(step)
            logger.warning("%s is damaged (%s); trying the one before", self.at(step), damage)
        return None

    def save(
        self, step: int, write: Callable[[Path], None], ranks: Ranks, *, keep_optimisers: bool
    ) -> Path:
        """Write one checkpoint.

        Collective: every rank must call this.

        Args:
            step: names the folder.
            write: called on every rank with a folder to write into; rank 0 writes what all share.
            ranks: this process among its peers.
            keep_optimisers: False drops optimiser state from all but the newest checkpoints.

        Raises:
            UnsavedError: the disk does not take it, the same on every rank; the checkpoints before
                are as they were.
        """
        partial = self.path / f".step-{step}.partial"
        main_first(lambda: _on_disk(partial, lambda: _empty_folder(partial)), ranks)
        problem: Exception | None = None
        try:
            _on_disk(partial, lambda: write(partial))
        except UnsavedError as error:
            problem = error
        raise_together(problem, ranks)
        main_first(
            lambda: _on_disk(partial, lambda: self._commit(partial, step, keep_optimisers)), ranks
        )
        return self.at(step)

    def _commit(self, partial: Path, step: int, keep_optimisers: bool) -> None:
        write_manifest(partial)
        final = self.at(step)
        if final.exists():
            replaced = self.path / f".step-{step}.replaced"
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
            partial.rename(final)
            shutil.rmtree(replaced)
        else:
            partial.rename(final)
        self._point_latest(final.name)
        sync(self.path)
        if not keep_optimisers:
            for old in self.steps()[:-KEPT_WITH_OPTIMISER]:
                _drop_optimisers(self.at(old))

    def _point_latest(self, name: str) -> None:
        temporary = self.path / f".{LATEST}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(name)
        temporary.replace(self.path / LATEST)


def _drop_optimisers(folder: Path) -> None:
    files = list(folder.glob(OPTIMISER_FILES))
    if files:
        try:
            listed = read_files_of(folder)
        except ValueError as error:
            logger.warning("%s is damaged (%s is not readable: %s)", folder, MANIFEST, error)
            return
        dropped = {file.name for file in files}
        # The manifest first: a kill in between leaves files nobody asks for, not a damaged folder.
        replace_manifest(folder, {n: about for n, about in listed.items() if n not in dropped})
        for file in files:
            file.unlink(missing_ok=True)


def _on_disk(partial: Path, work: Callable[[], object]) -> None:
    """Do what fails as UnsavedError where the disk is at fault."""
    try:
        with naming(partial):
            work()
    except OSError as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        # Half a checkpoint may be what fills the disk.
        shutil.rmtree(partial, ignore_errors=True)
        raise UnsavedError(f"no checkpoint was saved: {problem}") from None


def _empty_folder(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
