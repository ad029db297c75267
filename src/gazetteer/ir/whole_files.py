"""Text files that are whole or absent: written under another name, and renamed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from gazetteer.errors import DataError


@contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A file to write to, in UTF-8; its folder is created. After an error nothing is left of it.

    Raises:
        DataError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
