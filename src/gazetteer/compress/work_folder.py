"""The folder beside an output in which its finished parts wait: a killed run goes on from there.

Parts appear whole or not at all. What the output depends on is noted when the folder is made, and
a run that would mix two settings is refused.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from gazetteer.errors import DataError, OptionError
from gazetteer.files import replace_json, sync

SETTINGS = "settings.json"


class WorkFolder:
    """Finished parts of one output. Use `opened`.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    @contextmanager
    def opened(cls, path: Path, settings: Mapping[str, Any]) -> Iterator[WorkFolder]:
        """The folder, for this process alone.

        Args:
            path: made if it is not there.
            settings: what the output depends on, by flag.

        Raises:
            OptionError: it was begun with other settings, which are named.
            DataError: another process uses it, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            with (path / "lock").open("ab") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise DataError(f"{path}: another process writes here") from None
                _agree(path, json.loads(json.dumps(settings)))
                yield cls(path)
        except OSError as error:
            raise DataError(f"{error.filename or path}: {error.strerror or error}") from None

    def objects(self, name: str) -> list[dict[str, Any]] | None:
        """A finished part; None where there is none."""
        try:
            return json.loads(self._file(name, "json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            # Only a failing disk does that; the part is made again.
            return None

    def write_objects(self, name: str, objects: Sequence[Mapping[str, Any]]) -> None:
        """Finish a part."""
        replace_json(self._file(name, "json"), list(objects))

    def arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """A finished part; None where there is none."""
        try:
            return load_file(self._file(name, "safetensors"))
        except (FileNotFoundError, SafetensorError):
            return None

    def write_arrays(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Finish a part."""
        final = self._file(name, "safetensors")
        partial = final.with_name(f".{final.name}.new")
        partial.write_bytes(save(dict(arrays)))
        sync(partial)
        partial.replace(final)

    def remove(self) -> None:
        """Remove all of it: the output is whole."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _file(self, name: str, ending: str) -> Path:
        return self._path / f"{name}.{ending}"


def _agree(path: Path, settings: Mapping[str, Any]) -> None:
    """Note the settings, or compare them with those noted."""
    try:
        noted = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        replace_json(path / SETTINGS, settings)
        return
    except ValueError:
        raise DataError(f"{path / SETTINGS}: not valid JSON; remove the folder") from None
    for name in dict.fromkeys([*settings, *noted]):
        before, now = noted.get(name), settings.get(name)
        if before != now:
            raise OptionError(
                f"{name} is now {_shown(now)}, but {path} was begun with {_shown(before)}: "
                "go on with that, or remove the folder"
            )


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
