"""What a path typed by a user points at, asked without ever raising."""

from __future__ import annotations

import os
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


def can_be_written(path: str) -> bool:
    """Tell whether this user can write into a folder, or create it in its nearest parent."""
    try:
        folder = Path(path).absolute()
        nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
        is_possible = "\0" not in path and nearest.is_dir()
        return is_possible and os.access(nearest, os.W_OK | os.X_OK)
    except (OSError, ValueError):
        return False


def default_cache_folder() -> Path:
    """Where prepared passages are kept if nobody says where: below XDG's folder for caches."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "gazetteer"
