"""A run of two workers under torchrun whose workers are killed, and how well the time was used.

Effective training time ratio, as it is counted here: seconds of the training steps whose results
were kept, each counted once, over the seconds between the begin of the job in each start (its
processes have started and met: they take the run's lock) and its end by a kill, or by itself. So
what counts against it: loading data and models, going back to a checkpoint, steps done twice,
saving. What does not: interpreters that start, imports, and workers that wait for each other.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gazetteer.run_lock import LOCK_FILE
from tests.support.ranks import free_port
from tests.support.runs import words_of

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "closed_book": True,
    "passages": None,
    "retriever_model_path": None,
    "shuffle": True,
    "dropout": 0.1,
    "collective_timeout_seconds": 120,
}
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went.

    Attributes:
        kills: of workers.
        effective_seconds: of steps whose results were kept.
        seconds: between begins and ends, see above.
    """

    kills: int
    effective_seconds: float
    seconds: float


class Elastic:
    """A run that torchrun starts again.

    Args:
        world: models and data.
        name: of the experiment.
        restarts: at most.
        flags: of the run.
    """

    def __init__(self, world: Path, name: str, restarts: int, **flags: object) -> None:
        self.folder = world / "experiments" / name
        self._log = world / f"{name}.out"
        words = words_of(world, "train", name=name, **SETTINGS | flags)
        launcher = f"-m torch.distributed.run --master_addr 127.0.0.1 --master_port {free_port()}"
        launcher += f" --nproc_per_node 2 --max_restarts {restarts} --monitor_interval 0.1"
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        with self._log.open("wb") as output:
            self._agent = subprocess.Popen(
                [sys.executable, *launcher.split(), str(ROOT / "train.py"), *words],
                env=environment, stdout=output, stderr=output,
            )  # fmt: skip
        self._begins: list[float] = []
        self._ends: list[float] = []

    def wait_for_begin(self) -> None:
        """Until the workers of this start have met."""
        path, last = self.folder / LOCK_FILE, self._ends[-1] if self._ends else 0.0
        while not (path.exists() and path.stat().st_size and path.stat().st_mtime > last):
            self._check()
        self._begins.append(path.stat().st_mtime)

    def wait_for_step(self, step: int) -> None:
        """Until this step is logged."""
        while self._last_step() < step:
            self._check()

    def kill(self, chance: random.Random) -> None:
        """SIGKILL for one of the workers."""
        workers = [pid for pid in children(self._agent.pid) if b"train.py" in command(pid)]
        os.kill(chance.choice(workers), signal.SIGKILL)
        self._ends.append(time.time())

    def finish(self) -> Outcome:
        """Wait for the end of the run, which is a success."""
        while self._agent.poll() is None:
            time.sleep(POLL_SECONDS)
        assert self._agent.returncode == 0, self.said()
        self._ends.append((self.folder / "metrics.jsonl").stat().st_mtime)
        return self.outcome()

    def outcome(self) -> Outcome:
        """So far; every begin has its end. What was not saved counts as lost."""
        assert len(self._begins) == len(self._ends)
        saved = (self.folder / "checkpoint" / "latest").readlink().name
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        logged = [line for line in map(json.loads, lines) if line["kind"] == "train"]
        effective, done = 0.0, 0
        for line in logged:
            if line["step"] <= int(saved.removeprefix("step-")):
                # The mean since the last line.
                effective += line["runtime/train_step"] * (line["step"] - done)
                done = line["step"]
        return Outcome(len(self._ends) - 1, effective, sum(self._ends) - sum(self._begins))

    def end(self) -> None:
        """Whatever happens in a test, nothing stays."""
        if self._agent.poll() is None:
            # Else it starts others while these are killed.
            self._agent.send_signal(signal.SIGSTOP)
            for pid in (*children(self._agent.pid), self._agent.pid):
                os.kill(pid, signal.SIGKILL)
        self._agent.wait()

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def _last_step(self) -> int:
        try:
            lines = (self.folder / "metrics.jsonl").read_text().splitlines()
            return int(json.loads(lines[-1])["step"])
        except (OSError, ValueError, IndexError):
            return 0

    def _check(self) -> None:
        assert self._agent.poll() is None, self.said()
        time.sleep(POLL_SECONDS)


def children(parent: int) -> list[int]:
    """Processes that a process started and that have not ended."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in found.read_text().split()] if found.exists() else []


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
