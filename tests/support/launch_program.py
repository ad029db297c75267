"""A program for tests to start: it joins its peers, sums their ranks and says what it saw.

    launch_program.py FOLDER [crash_first|crash|refuse|kill|freeze|alone] [COLLECTIVE_TIMEOUT]

After it met the others, rank 1 crashes (with `crash_first` at torchrun's first start only), ends
with a user's error, is killed, or falls silent with its connections open, as behind a cut cable.
With `alone`, a process without peers waits until it is ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from gazetteer.distributed.collectives import all_reduce_sum
from gazetteer.distributed.launch import process_group
from gazetteer.errors import DataError
from gazetteer.one_line_errors import exit_code

LISTENING = "0A"


def listening_addresses() -> list[str]:
    """IPv4 and IPv6 addresses on which this process accepts connections, from the kernel."""
    descriptors = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    mine = {os.path.basename(os.path.realpath(path)) for path in descriptors}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == LISTENING and f"socket:[{columns[9]}]" in mine:
                address = bytes.fromhex(columns[1].partition(":")[0])
                found.append(".".join(map(str, reversed(address))))
    return found


def main(folder: Path, ending: str = "", timeout: str = "300") -> None:
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with process_group(
        collective_timeout_seconds=int(timeout), rendezvous_timeout_seconds=120
    ) as ranks:
        if ranks.rank == 1:
            end(ending, attempt)
        report = {
            "ranks": [ranks.rank, ranks.local_rank, ranks.world_size, ranks.local_world_size],
            "sum": all_reduce_sum(torch.tensor([float(ranks.rank)])).item(),
            "interface": os.environ["GLOO_SOCKET_IFNAME"],
            "listening": listening_addresses(),
        }
        (folder / f"{attempt}.{ranks.rank}.json").write_text(json.dumps(report))
        if ending == "alone" and ranks.world_size == 1:
            signal.pause()


def end(ending: str, attempt: str) -> None:
    if ending == "crash" or (ending == "crash_first" and attempt == "0"):
        raise RuntimeError("rank 1 crashes")
    if ending == "refuse":
        raise DataError("f.jsonl:1: no text")
    if ending in ("kill", "freeze"):
        os.kill(os.getpid(), signal.SIGKILL if ending == "kill" else signal.SIGSTOP)


if __name__ == "__main__":
    sys.exit(exit_code("launch_program", lambda: main(Path(sys.argv[1]), *sys.argv[2:])))
