"""A disk that is full or broken: the run goes on, or ends with one line; no checkpoint is lost."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.whole_run import WholeRun
from tests.support.kill_points import Fault, disk_steps


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    return WholeRun(tmp_path_factory.mktemp("whole-run"))


def outcome(run: WholeRun, code: int) -> list[str]:
    """What is wrong with how a run ended: it may be done, or have said why not, in one line."""
    said = run.said()
    problems = [] if code in (0, 2) else [f"exit code {code}: {said[-2000:]}"]
    if "Traceback" in said:
        problems.append(f"a traceback: {said[-2000:]}")
    if code == 2 and sum("train.py: error: " in line for line in said.splitlines()) != 1:
        problems.append(f"not one line: {said[-2000:]}")
    return problems


@pytest.mark.parametrize("name", ["ENOSPC", "EIO"])
def test_an_error_of_any_write(whole_run: WholeRun, name: str, is_long: bool, fault_row) -> None:
    whole_run.start_over()
    steps = disk_steps(whole_run.work, whole_run.experiments)
    lost, went_on = [], 0
    tried = range(3, steps, 2 if is_long else steps // 3)
    for step in tried:
        whole_run.start_over()
        code = whole_run.go(Fault(step=step, error=getattr(errno, name)))
        went_on += code == 0
        lost += [f"step {step}: {p}" for p in (*outcome(whole_run, code), *whole_run.lost())]
    how = f"at one step of a whole run each; {went_on} runs went on, the rest ended with one line"
    fault_row(name, len(tried), len(lost), how)
    assert not lost, "\n".join(lost)


def test_a_file_that_cannot_grow(whole_run: WholeRun, is_long: bool, fault_row) -> None:
    largest = max(path.stat().st_size for path in whole_run.experiments.rglob("*"))
    lost, tried = [], range(100, largest, largest // (60 if is_long else 2))
    for size in tried:
        whole_run.start_over()
        code = whole_run.go(Fault(largest_file=size, error=errno.EFBIG))
        lost += [f"{size} bytes: {p}" for p in (*outcome(whole_run, code), *whole_run.lost())]
    fault_row("EFBIG", len(tried), len(lost), "all files of a whole run limited to a size")
    assert not lost, "\n".join(lost)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system whose size can be changed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "gazetteer-test", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a disk of its own needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path, is_long: bool, fault_row) -> None:
    run = WholeRun(tmp_path, small_disk)
    used = sum(path.stat().st_blocks * 512 for path in small_disk.rglob("*"))
    lost, tried = [], range(used // 20, used, used // (40 if is_long else 2))
    for size in tried:
        run.start_over()
        resize(small_disk, size)
        problems = outcome(run, run.go(Fault()))
        resize(small_disk, 64 * 2**20)
        lost += [f"{size} bytes: {problem}" for problem in (*problems, *run.lost())]
    fault_row("ENOSPC", len(tried), len(lost), "a real disk, smaller than what the run writes")
    assert not lost, "\n".join(lost)


def resize(disk: Path, size: int) -> None:
    pages = -(-size // 4096) * 4096
    done = subprocess.run(["mount", "-o", f"remount,size={pages}", str(disk)], capture_output=True)
    assert done.returncode == 0, done.stderr
