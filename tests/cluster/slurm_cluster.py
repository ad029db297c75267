"""A real Slurm on this machine: one controller and two nodes, without systemd or a database.

Everything lives in one folder and on free ports; what is started is ended by its recorded number.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.processes import processes_with

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
JobRequeue=1
InactiveLimit=0
KillWait=20
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=40
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""
NODE = (
    "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000"
    " State=UNKNOWN\n"
)


def why_not() -> str | None:
    """Why no cluster can be started here, in one line; None if one can."""
    if os.geteuid() != 0:
        return "a Slurm of our own needs root: slurmd starts tasks as other users"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return (
        f"not installed: {' '.join(missing)} (make test-cluster installs them)" if missing else None
    )


class Cluster:
    """Started by `up`; `down` ends it, whatever happened in between."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}

    def up(self) -> None:
        """Start all daemons, and wait until both nodes are idle."""
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        host, ports = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        text = CONFIGURATION.format(host=host, folder=self.folder, controller_port=ports[0])
        for node, port in zip(NODES, ports[1:], strict=True):
            text += NODE.format(node=node, host=host, port=port)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self.ask(
            "munged", f"--key-file={key}", f"--socket={self.folder}/munge.sock",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed", "--force",
        )  # fmt: skip
        self.ask("slurmctld")
        for node in NODES:
            self.start_node(node)
        self.wait(lambda: set(self.node_states()) == {"idle"}, 60, "both nodes to be idle")

    def down(self) -> None:
        """Cancel what runs, and stop the daemons by the numbers they recorded."""
        for state in ("PENDING", "RUNNING"):
            subprocess.run(["scancel", f"--state={state}"], env=self.environment, timeout=20)
        deadline = time.monotonic() + 20
        while self.tasks() and time.monotonic() < deadline:
            time.sleep(0.5)
        for task in self.tasks():
            _kill(task)
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munged"):
            self._stop(name)

    def ask(self, *command: str) -> str:
        """What a program says."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def wait(self, holds: Callable[[], object], seconds: float, what: str) -> None:
        """Until `holds()`."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.1)

    def node_states(self) -> list[str]:
        return self.ask("sinfo", "-h", "-N", "-o", "%T").split()

    def state(self, job: str) -> str:
        """Such as PENDING, RUNNING, COMPLETED, FAILED, CANCELLED."""
        shown = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return next(word.partition("=")[2] for word in shown if word.startswith("JobState="))

    def restarts(self, job: str) -> int:
        shown = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return int(next(word.partition("=")[2] for word in shown if word.startswith("Restarts=")))

    def lose_node(self, node: str) -> None:
        """End its daemon, step daemons and tasks at once, as a power cut does."""
        tasks = self.tasks(node)
        parents = {_parent(task) for task in tasks}
        _kill(int((self.folder / f"slurmd.{node}.pid").read_text()))
        for process in [*(p for p in parents if _name(p).startswith("slurmstepd")), *tasks]:
            _kill(process)

    def start_node(self, node: str) -> None:
        self.ask("slurmd", "-N", node)

    def tasks(self, node: str | None = None) -> list[int]:
        """Processes of the jobs, of one node or of both."""
        settings = [f"SLURM_CONF={self.folder / 'slurm.conf'}"]
        if node is not None:
            return processes_with(*settings, f"SLURMD_NODENAME={node}")
        return [task for name in NODES for task in self.tasks(name)]

    def _stop(self, name: str) -> None:
        path = self.folder / f"{name}.pid"
        # A recorded number may be another program's by now.
        if not path.exists() or _name(int(path.read_text())) != name.partition(".")[0]:
            return
        process = int(path.read_text())
        os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        _kill(process)


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
