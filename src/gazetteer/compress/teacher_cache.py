"""Answers that a teacher has given already, by what it was asked.

The key is a hash over the model, the whole prompt with its passages, and the decoding: what would
be answered otherwise has another key. One SQLite file, safe to share and to kill.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from gazetteer.errors import DataError

TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)"
WAIT_SECONDS = 60.0
"""For others that write to the same file."""


def answer_key(model: str, prompt: str, decoding: Mapping[str, object]) -> str:
    """What an answer depends on, as a hash.

    Args:
        model: its identity (`model_identity`).
        prompt: as given to it.
        decoding: settings.
    """
    document = json.dumps([model, prompt, decoding], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


class TeacherCache:
    """Answers by key.

    Args:
        path: of the file; made with its folder if it is not there.

    Raises:
        DataError: it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as database, database:
                database.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from None

    def find(self, keys: Sequence[str]) -> dict[str, str]:
        """The answers that are known, by key."""
        try:
            with closing(self._open()) as database:
                rows = [
                    database.execute(
                        "SELECT key, answer FROM answers WHERE key = ?", (key,)
                    ).fetchone()
                    for key in keys
                ]
        except sqlite3.Error as error:
            raise self._error(error) from None
        return dict(row for row in rows if row is not None)

    def keep(self, answers: Mapping[str, str]) -> None:
        """Add answers, all or none; what is there already stays."""
        try:
            with closing(self._open()) as database, database:
                database.executemany(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?)", list(answers.items())
                )
        except sqlite3.Error as error:
            raise self._error(error) from None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=WAIT_SECONDS)

    def _error(self, error: Exception) -> DataError:
        return DataError(f"{self._path}: cannot keep answers here: {error} (--cache_dir)")
