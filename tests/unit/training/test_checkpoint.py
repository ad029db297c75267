"""Checkpoints written beside training: whole or absent, and never silently."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from gazetteer.errors import CheckpointError, UnsavedError
from gazetteer.files import find_damage
from gazetteer.records import Ranks
from gazetteer.training.background import BackgroundWork
from gazetteer.training.checkpoint import CheckpointFolder
from tests.support.kill_points import disk_steps, kill_at

ALONE = Ranks()


def write(folder: Path) -> None:
    """A small checkpoint."""
    (folder / "reader").mkdir()
    (folder / "reader" / "weights").write_bytes(b"weights")
    (folder / "reader_optimiser.0.safetensors").write_bytes(b"moments")


def save_beside(
    checkpoints: CheckpointFolder, step: int, done: list[Path], work: BackgroundWork | None = None
) -> BackgroundWork:
    """Begin to save."""
    work = work or BackgroundWork()
    checkpoints.save_beside(
        work, step, write, ALONE, keep_optimisers=False, then=lambda path: done.append(path)
    )
    return work


def test_what_is_saved_beside_training_is_what_is_saved_in_front_of_it(tmp_path: Path) -> None:
    first, second = CheckpointFolder(tmp_path / "first"), CheckpointFolder(tmp_path / "second")
    done: list[Path] = []
    save_beside(first, 3, done).wait()
    second.save(3, write, ALONE, keep_optimisers=False)
    assert done == [first.at(3)]
    files = [sorted(p.relative_to(c.path) for p in c.path.rglob("*")) for c in (first, second)]
    assert files[0] == files[1]
    assert (first.at(3) / "manifest.json").read_text() == (
        second.at(3) / "manifest.json"
    ).read_text()


def test_nothing_is_acknowledged_before_it_is_in_place(tmp_path: Path) -> None:
    checkpoints, done, may_write = CheckpointFolder(tmp_path), [], threading.Event()

    def slow(folder: Path) -> None:
        may_write.wait()
        write(folder)

    work = BackgroundWork()
    checkpoints.save_beside(work, 1, slow, ALONE, keep_optimisers=True, then=done.append)
    work.check()
    assert done == [] and checkpoints.steps() == []
    may_write.set()
    # The next one waits for it.
    save_beside(checkpoints, 2, done, work).wait()
    assert done == [checkpoints.at(1), checkpoints.at(2)]
    assert (tmp_path / "latest").resolve() == checkpoints.at(2)


def failed_save(checkpoints: CheckpointFolder, work: BackgroundWork, error: Exception) -> None:
    """Begin a save that cannot be."""

    def fails(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise error

    checkpoints.save_beside(work, 2, fails, ALONE, keep_optimisers=True, then=lambda _: None)


def test_a_failure_is_raised_once_in_one_line_and_leaves_the_last_checkpoint(
    tmp_path: Path,
) -> None:
    checkpoints, work = CheckpointFolder(tmp_path), BackgroundWork()
    save_beside(checkpoints, 1, [], work).wait()
    failed_save(checkpoints, work, KeyError("of ours"))
    with pytest.raises(CheckpointError, match=r"step-2: not saved \('of ours'\)$"):
        work.wait()
    work.check()
    assert checkpoints.newest_intact() == checkpoints.at(1)


def test_a_full_disk_is_told_and_cleared_and_saved_to_again(tmp_path: Path) -> None:
    checkpoints, work, done = CheckpointFolder(tmp_path), BackgroundWork(), []
    save_beside(checkpoints, 1, [], work).wait()
    failed_save(checkpoints, work, OSError(28, "No space left on device"))
    problem = work.wait()
    assert isinstance(problem, UnsavedError)
    assert str(problem).startswith("no checkpoint was saved: ") and "No space" in str(problem)
    work.check()
    assert {path.name for path in tmp_path.iterdir()} == {"step-1", "latest"}
    assert checkpoints.newest_intact() == checkpoints.at(1)
    assert save_beside(checkpoints, 3, done, work).wait() is None
    assert done == [checkpoints.at(3)]


def test_two_workers_cannot_overwrite_each_other(tmp_path: Path) -> None:
    from gazetteer.training import checkpoint

    for rank in range(2):
        checkpoint._write_part(tmp_path, write, Ranks(rank=rank, world_size=2))
    with pytest.raises(CheckpointError, match="another worker wrote reader"):
        checkpoint._put_together(tmp_path, Ranks(world_size=2))


def test_a_kill_at_any_point_of_a_save_in_a_thread_keeps_a_good_checkpoint(tmp_path: Path) -> None:
    logging.disable(logging.WARNING)

    def second(folder: Path) -> None:
        done: list[Path] = []
        save_beside(CheckpointFolder(folder), 2, done).wait()
        assert done

    CheckpointFolder(tmp_path / "count").save(1, write, ALONE, keep_optimisers=False)
    points = disk_steps(lambda: second(tmp_path / "count"), tmp_path / "count")
    assert points > 15
    for point in range(points):
        folder = tmp_path / f"killed-{point}"
        checkpoints = CheckpointFolder(folder)
        checkpoints.save(1, write, ALONE, keep_optimisers=False)
        assert kill_at(lambda folder=folder: second(folder), folder, point)
        newest = checkpoints.newest_intact()
        assert newest in (checkpoints.at(1), checkpoints.at(2))
        assert all(find_damage(checkpoints.at(step)) is None for step in checkpoints.steps())
        # And the next save clears up.
        checkpoints.save(2, write, ALONE, keep_optimisers=False)
        assert checkpoints.newest_intact() == checkpoints.at(2)
    logging.disable(logging.NOTSET)
