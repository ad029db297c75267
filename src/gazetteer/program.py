"""What both entry points share: parse, launch, run, and leave with an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

from gazetteer.distributed.launch import process_group
from gazetteer.dry_run import plan
from gazetteer.errors import GazetteerError
from gazetteer.options import Options, parse_options
from gazetteer.records import Ranks


def run_program(program: Literal["train", "evaluate"], job: Callable[[Options, Ranks], int]) -> int:
    """Run a job on every rank.

    Returns:
        The exit code: the job's own, or an error's (2 for bad input), after its message. Of an
        error that all ranks share, rank 0 alone speaks.
    """
    ranks = Ranks()
    try:
        options = parse_options(program=program)
        with process_group(
            local_rank=options.launch.local_rank,
            main_port=options.launch.main_port,
            rendezvous_timeout_seconds=options.launch.rendezvous_timeout_seconds,
            collective_timeout_seconds=options.launch.collective_timeout_seconds,
        ) as ranks:
            if options.launch.dry_run:
                lines = "".join(f"{line}\n" for line in plan(options, ranks))
                sys.stdout.write(lines if ranks.is_main else "")
                return 0
            return job(options, ranks)
    except GazetteerError as error:
        if ranks.is_main or not error.is_shared:
            sys.stderr.write(f"{program}.py: error: {error}\n")
        return error.exit_code
