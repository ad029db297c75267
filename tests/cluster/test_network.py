"""Two machines, as network namespaces, and a cable to cut between them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.runs import SETTINGS, require_equal
from tests.support.runs import words_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 20
"""Of collectives, in seconds."""
MARGIN = 10
"""Of the workers, on a busy machine."""


class Cable:
    """Machines a1 (10.231.7.1) and a2 (10.231.7.2), with nothing else on their network."""

    def __init__(self) -> None:
        self.names = [f"gz{os.getpid()}a{number}" for number in (1, 2)]

    def up(self) -> None:
        for name in self.names:
            _ip("netns", "add", name)
        first, second = self.names
        peer = ("type", "veth", "peer", "name", "cable2", "netns", second)
        _ip("link", "add", "cable1", "netns", first, *peer)
        for number, name in enumerate(self.names, start=1):
            _ip("-n", name, "addr", "add", f"10.231.7.{number}/24", "dev", f"cable{number}")
            _ip("-n", name, "link", "set", f"cable{number}", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def down(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def set(self, state: str) -> None:
        """Cut the cable ("down") or mend it ("up")."""
        _ip("-n", self.names[0], "link", "set", "cable1", state)

    def start(self, number: int, command: list[str], output: Path) -> subprocess.Popen[bytes]:
        """Start a command on machine 1 or 2, which has a host name of its own."""
        inside = ["ip", "netns", "exec", self.names[number - 1], "unshare", "--uts"]
        named = ["sh", "-c", f'hostname a{number}; exec "$@"', "sh", *command]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        with output.open("ab") as file:
            return subprocess.Popen([*inside, *named], env=environment, stdout=file, stderr=file)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    made = Cable()
    try:
        made.up()
        yield made
    finally:
        made.down()


def launch(cable: Cable, world: Path) -> list[subprocess.Popen[bytes]]:
    settings = SETTINGS | {"collective_timeout_seconds": TIMEOUT}
    words = words_of(world, "train", name="cut", **settings)
    return [
        cable.start(
            number,
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2"),
                *("--nproc_per_node=1", f"--node_rank={number - 1}"),
                *("--master_addr=10.231.7.1", "--master_port=29500"),
                *(str(ROOT / "train.py"), *words),
            ],
            world / f"a{number}.out",
        )
        for number in (1, 2)
    ]


def test_a_cut_cable_is_noticed_on_both_sides(cable: Cable, world: Path, report) -> None:
    machines = launch(cable, world)
    try:
        metrics = world / "experiments" / "cut" / "metrics.jsonl"
        deadline = time.monotonic() + 300
        while not (metrics.exists() and metrics.read_text().count("\n") >= 13):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        cable.set("down")
        # Their own exit code is torchrun's.
        assert [machine.wait(timeout=TIMEOUT + 60) for machine in machines] == [1, 1]
        seconds = []
        for number, lost in ((1, "rank 1 on a2"), (2, "rank 0 on a1")):
            said = (world / f"a{number}.out").read_text()
            found = re.search(rf"train.py: error: {lost}.* was not heard of for (\d+) s", said)
            assert found is not None, said
            seconds.append(int(found[1]))
            assert re.search(r"exitcode *: 75", said), said
        assert max(seconds) < TIMEOUT + MARGIN, seconds
        cable.set("up")
        machines = launch(cable, world)
        assert [machine.wait(timeout=300) for machine in machines] == [0, 0]
    finally:
        for machine in machines:
            machine.kill()
            machine.wait()
    require_equal(world, "whole2", "cut")
    outcome = f"both ends left (timeout {TIMEOUT} s), equal bits after the same command"
    report("cable cut between two machines", outcome, max(seconds))
