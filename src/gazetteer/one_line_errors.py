"""Commands of one process: what goes wrong is one line, and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping

from gazetteer.errors import GazetteerError, OptionError


def exit_code(speaker: str, work: Callable[[], int | None]) -> int:
    """Do `work`.

    Args:
        speaker: what the line on stderr begins with.
        work: returns an exit code, or nothing for 0.

    Returns:
        What `work` returned; after an error of a user's or of the file system, said in one line,
        the error's own code.
    """
    try:
        return work() or 0
    except GazetteerError as error:
        sys.stderr.write(f"{speaker}: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"{speaker}: {error.filename}: {error.strerror}\n")
        return GazetteerError.exit_code


def quiet_libraries() -> None:
    """Keep requests and retries of the hub out of the log; what fails in the end is said once."""
    for name in ("httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def require_one_process(environment: Mapping[str, str], instead: str) -> None:
    """Refuse to be one of several processes that would all do the same.

    Args:
        environment: of this process.
        instead: what to do.

    Raises:
        OptionError: torchrun or srun started several.
    """
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if environment.get(name, "1") not in ("", "1"):
            raise OptionError(f"started {environment[name]} times ({name}): {instead}")
