"""Checkpoints: whole or absent, verified, and unable to execute anything.

A checkpoint is a folder of safetensors and JSON with a manifest of sizes and hashes. Every rank
writes a part under another name: files, and last a manifest of them. When all manifests are there,
rank 0 puts the parts together and renames the whole, so `step-N` is always complete. No rank needs
to hear of another for this, which is why threads can do it while training goes on.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gazetteer.distributed.agreement import main_first, raise_together
from gazetteer.errors import CheckpointError, UnsavedError
from gazetteer.files import (
    MANIFEST,
    disk_problem,
    find_damage,
    listed_files,
    naming,
    read_files_of,
    replace_manifest,
    replace_text,
    sync,
    write_manifest,
)
from gazetteer.records import Ranks
from gazetteer.training.background import BackgroundWork
from gazetteer.training.optimiser_files import OPTIMISER_FILES

logger = logging.getLogger(__name__)

LATEST = "latest"
KEPT_WITH_OPTIMISER = 2
"""Newest checkpoints that keep optimiser state without `--save_optimizer`: one to resume from, and
one to fall back to."""
LOOK_SECONDS = 0.05
"""Between two looks for the parts of other ranks."""
FAILED = ".failed-"


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
            write: called on every rank with a folder to write into, each rank's own; names that two
                ranks use collide when the parts are put together.
            ranks: this process among its peers.
            keep_optimisers: False drops optimiser state from all but the newest checkpoints.

        Raises:
            UnsavedError: the disk does not take it, the same on every rank; the checkpoints before
                are as they were.
            CheckpointError: two ranks wrote the same name.
        """
        partial = self._begin(step, ranks)
        problem = _write_part(partial, write, ranks)
        try:
            raise_together(problem, ranks)
            main_first(lambda: self._commit(partial, step, ranks, keep_optimisers), ranks)
        except UnsavedError:
            _forget(partial, ranks)
            raise
        return self.at(step)

    def save_beside(
        self,
        work: BackgroundWork,
        step: int,
        write: Callable[[Path], None],
        ranks: Ranks,
        *,
        keep_optimisers: bool,
        then: Callable[[Path], None],
    ) -> None:
        """Write one checkpoint in a thread, as `save` does, while this one goes on.

        Collective: every rank must call this. What was begun before is waited for; the threads
        themselves are no collectives, and find each other's parts in the folder.

        Args:
            work: where it is done, the same for all of a run's checkpoints.
            step: names the folder.
            write: as for `save`; called in the thread, so nothing that training changes.
            ranks: this process among its peers.
            keep_optimisers: as for `save`.
            then: called by rank 0's thread with the folder, when it is there.

        Raises:
            CheckpointError: what was begun before has failed, not for the disk's sake.
            UnsavedError: the disk takes nothing any more; the same on every rank.
        """
        work.wait()
        partial = self._begin(step, ranks)

        def save() -> UnsavedError | None:
            try:
                problem = _write_part(partial, write, ranks)
                if problem is not None:
                    _tell_main(partial, ranks, problem)
                if not ranks.is_main:
                    return problem
                _await_parts(partial, ranks)
                self._commit(partial, step, ranks, keep_optimisers)
            except UnsavedError as error:
                _forget(partial, ranks)
                logger.warning("%s", error)
                return error
            except Exception as error:
                reason = f"{self.at(step)}: not saved ({error})"
                with suppress(OSError):
                    _tell_main(partial, ranks, reason)
                raise CheckpointError(reason) from error
            then(self.at(step))
            return None

        work.start(save)

    def _begin(self, step: int, ranks: Ranks) -> Path:
        partial = self.path / f".step-{step}.partial"

        def empty() -> None:
            with _on_disk(partial):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)

        main_first(empty, ranks)
        return partial

    def _commit(self, partial: Path, step: int, ranks: Ranks, keep_optimisers: bool) -> None:
        with _on_disk(partial):
            self._put_in_place(partial, step, ranks, keep_optimisers)

    def _put_in_place(self, partial: Path, step: int, ranks: Ranks, keep_optimisers: bool) -> None:
        _put_together(partial, ranks)
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


def _part(partial: Path, rank: int) -> Path:
    return partial / f".part-{rank}"


def _write_part(partial: Path, write: Callable[[Path], None], ranks: Ranks) -> UnsavedError | None:
    """Write this rank's part; what is wrong with the disk is returned, to be agreed on."""
    part = _part(partial, ranks.rank)
    try:
        with _on_disk(partial):
            part.mkdir()
            write(part)
            write_manifest(part)
    except UnsavedError as problem:
        return problem
    return None


def _tell_main(partial: Path, ranks: Ranks, problem: object) -> None:
    """Leave a note where rank 0 looks for this rank's part, which makes room for it."""
    shutil.rmtree(_part(partial, ranks.rank), ignore_errors=True)
    replace_text(partial / f"{FAILED}{ranks.rank}", str(problem))


def _await_parts(partial: Path, ranks: Ranks) -> None:
    """Wait until all ranks have written their parts, or why they have not.

    One that can say neither ends the run.

    Raises:
        UnsavedError: a rank has no part. None of them writes any more then.
    """
    failures = [partial / f"{FAILED}{rank}" for rank in range(ranks.world_size)]
    for rank, failure in enumerate(failures):
        while not (_part(partial, rank) / MANIFEST).is_file() and not failure.is_file():
            time.sleep(LOOK_SECONDS)
    for failure in failures:
        if failure.is_file():
            raise UnsavedError(failure.read_text(encoding="utf-8"))


def _put_together(partial: Path, ranks: Ranks) -> None:
    """Move the files of all parts into their folder, and list them in one manifest."""
    files = {}
    for rank in range(ranks.world_size):
        part = _part(partial, rank)
        files |= listed_files(part)
        (part / MANIFEST).unlink()
        for path in sorted(part.iterdir()):
            if (partial / path.name).exists():
                raise CheckpointError(f"{path}: another worker wrote {path.name}, too")
            path.rename(partial / path.name)
        part.rmdir()
    replace_manifest(partial, dict(sorted(files.items())))


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


@contextmanager
def _on_disk(partial: Path) -> Iterator[None]:
    """What fails within fails as UnsavedError where the disk is at fault."""
    try:
        with naming(partial):
            yield
    except OSError as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        raise UnsavedError(f"no checkpoint was saved: {problem}") from None


def _forget(partial: Path, ranks: Ranks) -> None:
    """Remove half a checkpoint, which may be what fills the disk; when no rank writes any more."""
    if ranks.is_main:
        shutil.rmtree(partial, ignore_errors=True)
