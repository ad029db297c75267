"""A program for tests to start: it joins its peers, sums their ranks and says what it saw.

    launch_program.py FOLDER [crash_first | crash]

Rank 1 crashes after it met the others: always, or only the first time torchrun starts it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

from gazetteer.distributed.collectives import all_reduce_sum
from gazetteer.distributed.launch import process_group

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


def main(folder: Path, crash: str = "") -> None:
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    with process_group(collective_timeout_seconds=300, rendezvous_timeout_seconds=120) as ranks:
        if ranks.rank == 1 and (crash == "crash" or (crash == "crash_first" and attempt == "0")):
            raise RuntimeError("rank 1 crashes")
        start = time.monotonic()
        try:
            total = all_reduce_sum(torch.tensor([float(ranks.rank)])).item()
        except RuntimeError:
            total = None
        report = {
            "ranks": [ranks.rank, ranks.local_rank, ranks.world_size, ranks.local_world_size],
            "attempt": attempt,
            "sum": total,
            "seconds": time.monotonic() - start,
            "interface": os.environ["GLOO_SOCKET_IFNAME"],
            "listening": listening_addresses(),
        }
        (folder / f"{attempt}.{ranks.rank}.json").write_text(json.dumps(report))
        # Nobody leaves before all have looked at their sockets.
        all_reduce_sum(torch.zeros(1)) if total is not None else None


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
