"""A disk that one worker finds full: all hear of it, nobody is left waiting, nothing is lost."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from gazetteer.errors import UnsavedError
from gazetteer.records import Ranks
from gazetteer.training.background import BackgroundWork
from gazetteer.training.checkpoint import CheckpointFolder
from tests.support.ranks import run_on_ranks


def save_job(ranks: Ranks, folder: Path, fails: int, is_beside: bool) -> list[str]:
    """Save three times; the second time one rank's disk is full while the other still writes."""
    checkpoints, work = CheckpointFolder(folder), BackgroundWork()
    said = []
    for step in (1, 2, 3):

        def write(part: Path, step: int = step) -> None:
            if step == 2:
                if ranks.rank == fails:
                    raise OSError(errno.ENOSPC, "No space left on device")
                time.sleep(0.3)
            (part / f"weights.{ranks.rank}").write_bytes(b"weights")

        problem = None
        if is_beside:
            checkpoints.save_beside(
                work, step, write, ranks, keep_optimisers=True, then=lambda _: None
            )
            problem = work.wait()
        else:
            try:
                checkpoints.save(step, write, ranks, keep_optimisers=True)
            except UnsavedError as error:
                problem = error
        said.append(str(problem))
    return said


@pytest.mark.parametrize("is_beside", [False, True], ids=["in front", "beside"])
@pytest.mark.parametrize("fails", [0, 1])
def test_a_disk_that_one_worker_finds_full(tmp_path: Path, fails: int, is_beside: bool) -> None:
    said = run_on_ranks(save_job, 2, tmp_path, fails, is_beside)
    for rank, (first, second, third) in enumerate(said):
        assert (first, third) == ("None", "None")
        # Beside training, who wrote its part knows nothing before the run asks all of them.
        if not is_beside or rank in (0, fails):
            assert second.startswith("no checkpoint was saved: "), rank
            assert "No space left" in second
    assert CheckpointFolder(tmp_path).steps() == [1, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-1", "step-3"]
