"""What both entry points share: parse, launch, run, and leave with an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout

from gazetteer.distributed.launch import process_group
from gazetteer.distributed.requeue import requeue
from gazetteer.dry_run import Measure, plan
from gazetteer.errors import TRY_AGAIN, DiskError, GazetteerError, OptionError
from gazetteer.files import disk_problem
from gazetteer.option_rules import Program
from gazetteer.options import Options, parse_options
from gazetteer.records import Ranks
from gazetteer.step_on_meta import measure_reading
from gazetteer.submission import submit


def run_program(
    program: Program,
    job: Callable[[Options, Ranks], int],
    arguments: Sequence[str] | None = None,
    *,
    measure: Measure = measure_reading,
) -> int:
    """Run a job on every rank.

    Args:
        program: whose flags these are.
        job: what is done with them.
        arguments: the command line; None = that of this process.
        measure: says what the job's models need of memory, for `--dry_run`.

    Returns:
        The exit code: the job's own, or an error's (2 for bad input), after its message. Of an
        error that all ranks share, rank 0 alone speaks; of one in the options, which are read
        before the processes know of each other, the first of each machine.
    """
    try:
        options = _options(program, arguments)
    except OptionError as error:
        if speaks_for_machine(os.environ):
            sys.stderr.write(f"{program}.py: error: {error}\n")
        return error.exit_code
    ranks: Ranks | None = None
    try:
        if options.launch.launcher != "auto" and not options.launch.dry_run:
            return submit(options, sys.argv)
        with process_group(
            local_rank=options.launch.local_rank,
            main_port=options.launch.main_port,
            rendezvous_timeout_seconds=options.launch.rendezvous_timeout_seconds,
            collective_timeout_seconds=options.launch.collective_timeout_seconds,
            set_aside=processes_set_aside(options, program),
        ) as ranks:
            if options.launch.dry_run and ranks.is_set_aside:
                return 0
            if options.launch.dry_run:
                lines = "".join(f"{line}\n" for line in plan(options, ranks, measure))
                sys.stdout.write(lines if ranks.is_main else "")
                return 0
            code = _done(job, options, ranks)
            if code == TRY_AGAIN and ranks.is_main:
                # While the others wait: launchers end what is left when one leaves with 75.
                requeue(os.environ)
        return code
    except GazetteerError as error:
        is_speaker = speaks_for_machine(os.environ) if ranks is None else ranks.is_main
        if is_speaker or not error.is_shared:
            sys.stderr.write(f"{program}.py: error: {error}\n")
        return error.exit_code


def _done(job: Callable[[Options, Ranks], int], options: Options, ranks: Ranks) -> int:
    """Do a job; what a disk does not take is an error of one line, for the peers as well."""
    try:
        return job(options, ranks)
    except OSError as error:
        problem = disk_problem(error)
        if problem is None:
            raise
        raise DiskError(problem) from None


def processes_set_aside(options: Options, program: Program) -> int:
    """How many of the processes started do not train (`--refresh_workers`)."""
    is_dedicated = program == "train" and options.index.refresh_mode == "dedicated"
    return options.index.refresh_workers if is_dedicated else 0


def _options(program: Program, arguments: Sequence[str] | None) -> Options:
    """The options; --help and errors in the command line are shown once on each machine."""
    if speaks_for_machine(os.environ):
        return parse_options(arguments, program=program)
    unseen = io.StringIO()
    with redirect_stdout(unseen), redirect_stderr(unseen):
        return parse_options(arguments, program=program)


def speaks_for_machine(environment: Mapping[str, str]) -> bool:
    """Whether this is the only process, or the first one its launcher started on this machine.

    One speaker in all would not do: files may be missing on some machines only.
    """
    names = ("LOCAL_RANK", "RANK", "SLURM_LOCALID", "SLURM_PROCID")
    first = next((environment[name] for name in names if environment.get(name)), "0")
    return first == "0"
