"""One run of a name at a time, and nothing left of one that wrote nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gazetteer import run_lock
from gazetteer.errors import GazetteerError, RunningError
from gazetteer.records import Ranks
from gazetteer.run_lock import LOCK_FILE, only_run

HOLDS = """
import sys, time
from pathlib import Path
from gazetteer.records import Ranks
from gazetteer.run_lock import only_run
with only_run(Path(sys.argv[1]), Ranks(), 1):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_told_where_the_first_is(
    holder: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(RunningError) as caught, only_run(folder, Ranks(), 0.5):
        pass
    said = str(caught.value)
    assert said.startswith(f"{folder}: another run of this name is under way, process {holder.pid}")
    assert "\n" not in said and "--name" in said
    assert "waiting for a run under way" in caplog.text


def test_a_run_that_was_killed_holds_nothing(
    holder: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def kill_meanwhile(seconds: float) -> None:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        slept.append(seconds)

    monkeypatch.setattr(run_lock.time, "sleep", kill_meanwhile)
    with only_run(tmp_path / "run", Ranks(), 60):
        assert slept == [run_lock.POLL_SECONDS]
        assert f"process {os.getpid()} on " in (tmp_path / "run" / LOCK_FILE).read_text()


def test_nothing_is_left_of_a_run_that_wrote_nothing(tmp_path: Path) -> None:
    with only_run(tmp_path / "run", Ranks(), 1):
        assert (tmp_path / "run" / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []
    with only_run(tmp_path / "run", Ranks(), 1):
        (tmp_path / "run" / "run.log").touch()
    assert os.listdir(tmp_path / "run") == ["run.log"]


def test_a_file_system_without_locks_keeps_nobody_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", no_locks)
    with only_run(tmp_path / "run", Ranks(), 1):
        pass
    assert "no locks here" in caplog.text


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(GazetteerError, match="cannot be written"),
        only_run(tmp_path / "file" / "run", Ranks(), 1),
    ):
        pass
