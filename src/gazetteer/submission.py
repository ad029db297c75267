"""`--launcher submitit`: hand this very command to Slurm, and what then runs in its place.

submitit pickles what it submits, and unpickles it on the machines of the job. Here that is the
words of a command line and a number: no model, no data, nothing that anybody else wrote. Its
folder is code all the same, and therefore nobody else's to write.
"""

from __future__ import annotations

import os
import runpy
import signal
import stat
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gazetteer.distributed.launch import plan_launch
from gazetteer.distributed.requeue import job_state
from gazetteer.distributed.slurm import is_step, port_of
from gazetteer.errors import TRY_AGAIN, LaunchError, OptionError
from gazetteer.launch_options import SlurmOptions, job_folder
from gazetteer.options import Options

POLL_SECONDS = 2.0
PRIVATE = 0o700
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
LOCAL_RANKS = {
    "RANK": "SUBMITIT_LOCAL_GLOBALID",
    "WORLD_SIZE": "SUBMITIT_LOCAL_NTASKS",
    "LOCAL_RANK": "SUBMITIT_LOCAL_LOCALID",
    "LOCAL_WORLD_SIZE": "SUBMITIT_LOCAL_NTASKS",
}
"""What torchrun would have set, by what submitit sets without Slurm."""


@dataclass(frozen=True, slots=True)
class SubmittedRun:
    """One process of the job. submitit calls it, and asks it how to go on after an interruption.

    Attributes:
        command: the program's file, and the words after it.
        requeues: so often the job may go back into the queue.
    """

    command: tuple[str, ...]
    requeues: int

    def __call__(self) -> None:
        """Run the program, and leave with its exit code; after 75, to be started again.

        While it trains, its own handler of signals is in place: all ranks save together. Only
        then is the signal passed to submitit's, whose rank 0 calls `checkpoint` and requeues.
        """
        import submitit

        _name_ranks(os.environ)
        code = _run(self.command)
        job = submitit.JobEnvironment()
        if code == TRY_AGAIN and self._may_go_on() and _is_wanted(os.environ):
            signal.raise_signal(getattr(signal, f"SIG{job.USR_SIG}"))
        if job.global_rank == 0:
            _note_exit(_exit_file(job.paths.folder, job.job_id), code)
        sys.exit(code)

    def checkpoint(self) -> Any:  # noqa: ANN401 - submitit's DelayedSubmission
        """The same command again; None when it was requeued often enough.

        On rank 0 alone, and no collective: what is to be saved has been saved.
        """
        import submitit

        return submitit.helpers.DelayedSubmission(self) if self._may_go_on() else None

    def _may_go_on(self) -> bool:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0) < self.requeues


def submit(options: Options, words: Sequence[str]) -> int:
    """Hand a program to Slurm, and with `--slurm_wait` wait for it.

    Args:
        options: as resolved from `words`.
        words: of the command, from the program's file on.

    Returns:
        Exit code: 0 once submitted, or the job's.

    Raises:
        OptionError: the folder of the job is not ours alone, or submitit is missing.
        LaunchError: not to be submitted from here, or Slurm refused.
    """
    try:
        import submitit
    except ImportError:
        raise OptionError("--launcher submitit needs submitit: pip install submitit") from None
    _require_one_process(os.environ)
    folder = private_folder(job_folder(options))
    is_local = options.launch.launcher == "submitit_local"
    # The last word counts: there the run is not submitted again.
    command = (str(Path(words[0]).resolve()), *words[1:], "--launcher", "auto")
    try:
        executor = submitit.AutoExecutor(
            folder, cluster="local" if is_local else "slurm", **_limits(options.slurm, is_local)
        )
        executor.update_parameters(
            name=options.experiment.name, **_parameters(options.slurm, is_local)
        )
        job = executor.submit(SubmittedRun(command, options.slurm.slurm_requeues))
    except (RuntimeError, ValueError, OSError) as error:
        raise LaunchError(f"--launcher submitit: {' '.join(str(error).split())}") from None
    _exit_file(folder, job.job_id).unlink(missing_ok=True)
    sys.stdout.write(f"job {job.job_id}: {job.paths.stdout}\n")
    sys.stdout.flush()
    return _wait(job, is_local=is_local) if options.slurm.slurm_wait else 0


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can read and write, or check the one that is there.

    Raises:
        OptionError: somebody else can write there, or owns it.
    """
    folder = folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=PRIVATE, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise OptionError(f"--slurm_folder ({folder}): {error.strerror}") from None
    rule = f"--slurm_folder ({folder}) holds what the job will execute: "
    if not stat.S_ISDIR(found.st_mode):
        raise OptionError(f"{rule}it must be a folder, and no link to one")
    if found.st_uid != os.geteuid():
        raise OptionError(f"{rule}it must be your own (its owner is user {found.st_uid})")
    if found.st_mode & WRITABLE_BY_OTHERS:
        raise OptionError(f"{rule}others can write there (chmod go-w it, once you trust it)")
    return folder


def _require_one_process(environment: Mapping[str, str]) -> None:
    started_by = "srun" if is_step(environment) else None
    if environment.get("RANK") or environment.get("TORCHELASTIC_RUN_ID"):
        started_by = plan_launch(environment).launcher
    if started_by is not None:
        raise LaunchError(
            f"--launcher submitit submits a job from one process: leave out {started_by}, which "
            "started this one"
        )


def _limits(slurm: SlurmOptions, is_local: bool) -> dict[str, int]:
    return {} if is_local else {"slurm_max_num_timeout": slurm.slurm_requeues}


def _parameters(slurm: SlurmOptions, is_local: bool) -> dict[str, Any]:
    """What submitit asks Slurm for; None is left out by it."""
    parameters: dict[str, Any] = {
        "nodes": slurm.slurm_nodes,
        "tasks_per_node": slurm.tasks_per_node,
        "timeout_min": slurm.slurm_time,
    }
    if is_local:
        return parameters | {"gpus_per_node": slurm.slurm_gpus_per_node}
    return parameters | {
        "gpus_per_node": slurm.slurm_gpus_per_node or None,
        "cpus_per_task": slurm.slurm_cpus_per_task,
        "slurm_partition": slurm.slurm_partition,
        "slurm_mem": slurm.slurm_mem,
        "slurm_account": slurm.slurm_account,
        "slurm_qos": slurm.slurm_qos,
        "slurm_constraint": slurm.slurm_constraint,
        "slurm_exclude": slurm.slurm_exclude,
        "slurm_comment": slurm.slurm_comment,
        "slurm_signal_delay_s": slurm.slurm_notice,
        "slurm_srun_args": _srun_words(slurm),
        "slurm_additional_parameters": {"requeue": True},
    }


def _srun_words(slurm: SlurmOptions) -> list[str]:
    """What submitit's `srun` is told beside what `sbatch` was asked for.

    Whatever the cluster's default: a rank that leaves must not end rank 0, which requeues. And
    since Slurm 22.05 a step does not inherit the cores of each process.
    """
    cores = slurm.slurm_cpus_per_task
    return ["--kill-on-bad-exit=0", *([f"--cpus-per-task={cores}"] if cores else [])]


def _name_ranks(environment: MutableMapping[str, str]) -> None:
    """Without Slurm, say who this process is in the words of torchrun."""
    if environment.get("SUBMITIT_EXECUTOR") != "local":
        return
    for name, source in LOCAL_RANKS.items():
        environment[name] = environment[source]
    environment["MASTER_ADDR"] = "127.0.0.1"
    environment["MASTER_PORT"] = str(port_of(int(environment["SUBMITIT_LOCAL_JOB_ID"])))


def _run(command: Sequence[str]) -> int:
    """The program, in this process: signals reach it, and its exit code is known."""
    sys.argv = list(command)
    try:
        runpy.run_path(command[0], run_name="__main__")
    except SystemExit as leaving:
        if isinstance(leaving.code, str):
            sys.stderr.write(f"{leaving.code}\n")
            return 1
        return leaving.code or 0
    return 0


def _is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the job is to go on: not when somebody cancelled it."""
    if environment.get("SUBMITIT_EXECUTOR") == "local":
        return True
    return job_state(environment["SLURM_JOB_ID"]) == "RUNNING"


def _exit_file(folder: Path, job_id: str) -> Path:
    return folder / f"{job_id}_exit_code"


def _note_exit(path: Path, code: int) -> None:
    """In one piece: the command that waits may look at any moment."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(f"{code}\n")
    partial.replace(path)


def _wait(job: Any, *, is_local: bool) -> int:  # noqa: ANN401 - submitit's Job
    """The job's exit code, which its rank 0 leaves in a file: nothing is unpickled here."""
    path = _exit_file(job.paths.folder, job.job_id)
    while True:
        is_over = job.done() if is_local else job_state(job.job_id) is None
        if path.exists():
            return int(path.read_text())
        if is_over:
            raise LaunchError(
                f"job {job.job_id} ended without an exit code: the reason is in {job.paths.stderr}"
            )
        time.sleep(POLL_SECONDS)
