"""What can go wrong for a user: each error is one line, and the process leaves with `exit_code`.

Mistakes of our own stay `AssertionError` or `ValueError` and keep their traceback.
"""

TRY_AGAIN = 75
"""Exit code: the same command goes on from the last checkpoint (`EX_TEMPFAIL` of sysexits.h)."""


class GazetteerError(Exception):
    """A user-facing error: the message is the whole story, no traceback needed.

    Attributes:
        exit_code: of the process.
        is_shared: every rank raises this very error, so that one report is enough.
    """

    exit_code = 2
    is_shared = False


class OptionError(GazetteerError):
    """A flag's value breaks a rule; the message names flag, value and rule."""


class DataError(GazetteerError):
    """A data file is not what it should be; the message names file, line and field."""


class IndexFileError(GazetteerError):
    """A saved index is damaged, foreign or stale."""


class CheckpointError(GazetteerError):
    """A checkpoint is damaged or does not fit the model in use."""


class UnsavedError(CheckpointError):
    """The disk does not take a checkpoint; those before are as they were."""


class DiskError(GazetteerError):
    """A file cannot be written or read: the disk is full, broken, or closed to us."""


class RunningError(GazetteerError):
    """Another run of the same name is under way."""


class LaunchError(GazetteerError):
    """The processes could not be brought together."""


class PeerLostError(LaunchError):
    """Another worker is gone, or has failed; the message names its rank and machine."""

    exit_code = TRY_AGAIN


class PeerFailedError(LaunchError):
    """A mistake of ours on another worker, which shows its traceback; the message names it."""

    exit_code = 1


class TrainingDivergedError(GazetteerError):
    """Too many non-finite steps in a row."""

    exit_code = 3


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` > 0; `name` is the caller's own parameter."""
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
