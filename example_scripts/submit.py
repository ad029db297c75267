"""Hand a program to Slurm with submitit, and wait for it; train.py itself has --launcher submitit.

    python example_scripts/submit.py --nodes 4 --workers 8 -- -m gazetteer.dense.build_index ...

The job runs in the folder this was called from; what submitit keeps of it goes to --folder. The
exit code is 0, or 1 after the end of what the job wrote to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--workers", type=int, default=8, help="processes, and GPUs, of a node")
    parser.add_argument("--gpus", type=int, help="GPUs of a node, if not one per process")
    parser.add_argument("--minutes", type=int, default=1440, help="time limit of the job")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--folder", type=Path, default=Path("submitit_jobs"))
    parser.add_argument(
        "--cluster",
        choices=("slurm", "local"),
        default="slurm",
        help="local: here, in one process, without Slurm",
    )
    parser.add_argument("command", nargs="+", metavar="WORD", help="train.py or evaluate.py, flags")
    options = parser.parse_args(arguments)
    if options.cluster == "local" and (options.nodes, options.workers) != (1, 1):
        parser.error("--cluster local starts one process: --nodes 1 --workers 1")
    # What lies here is code that the job runs: nobody else may write it.
    options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if options.folder.stat().st_mode & 0o022:
        parser.error(f"--folder {options.folder}: others can write there; chmod go-w it")
    executor = submitit.AutoExecutor(folder=options.folder, cluster=options.cluster)
    gpus = options.workers if options.gpus is None else options.gpus
    executor.update_parameters(
        name=Path(options.command[0]).stem,
        nodes=options.nodes,
        tasks_per_node=options.workers,
        gpus_per_node=gpus if options.cluster == "slurm" else 0,
        timeout_min=options.minutes,
    )
    if options.partition is not None:
        executor.update_parameters(slurm_partition=options.partition)
    command = submitit.helpers.CommandFunction([sys.executable, *options.command], cwd=Path.cwd())
    job = executor.submit(command)
    print(f"job {job.job_id}: {job.paths.stdout}", flush=True)
    try:
        job.results()
    except (FailedJobError, UncompletedJobError) as error:
        print(f"submit: job {job.job_id} failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
