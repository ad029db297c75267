"""Commands of one process: what goes wrong is one line, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from gazetteer.errors import GazetteerError


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
