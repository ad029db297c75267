"""What a path typed by a user points at, asked without ever raising."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def path_kind(path: str) -> Literal["file", "folder", "nothing"]:
    """Tell file, folder or nothing; what cannot be looked at (denied, too long) is nothing."""
    try:
        if path and Path(path).is_dir():
            return "folder"
        return "file" if Path(path).is_file() else "nothing"
    except (OSError, ValueError):
        return "nothing"
