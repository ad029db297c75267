"""Files of training lines as OpenMatch's build_train and build_hn leave them in a folder."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from gazetteer.errors import DataError, OptionError

logger = logging.getLogger(__name__)


class ShardWriter:
    """Writes `split00{suffix}.jsonl`, `split01...`; they get these names when all are whole.

    What an earlier run left under further numbers is then removed: it would be merged as well.
    Used as a context; after an error nothing has changed.

    Args:
        folder: created if missing.
        suffix: "" or ".hn".
        lines_per_file: `--shard_size`.
    """

    def __init__(self, folder: Path, suffix: str, lines_per_file: int) -> None:
        self.shards: list[Path] = []
        self.lines = 0
        self._folder = folder
        self._suffix = suffix
        self._size = lines_per_file
        self._file: IO[str] | None = None

    def write(self, lines: Sequence[str]) -> None:
        """Append lines, each with its end."""
        for line in lines:
            if self.lines % self._size == 0:
                self._begin()
            assert self._file is not None
            self._file.write(line)
            self.lines += 1

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
        self.shards.append(self._folder / f"split{len(self.shards):02d}{self._suffix}.jsonl")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = _partial(self.shards[-1]).open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        if kind is not None:
            for shard in self.shards:
                _partial(shard).unlink(missing_ok=True)
            return
        for shard in self.shards:
            _partial(shard).replace(shard)
        for left in sorted(set(_shards_in(self._folder, self._suffix)) - set(self.shards)):
            logger.warning("%s: removed, an earlier run left it", left)
            left.unlink()


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _shards_in(folder: Path, suffix: str) -> list[Path]:
    name = re.compile(rf"split\d{{2,}}{re.escape(suffix)}\.jsonl")
    return [path for path in folder.glob("split*.jsonl") if name.fullmatch(path.name)]


def merge(shards: Sequence[Path], path: Path) -> None:
    """Put shards one after the other into one file; it appears whole or not at all."""
    with _partial(path).open("wb") as merged:
        for shard in shards:
            with shard.open("rb") as file:
                shutil.copyfileobj(file, merged)
    _partial(path).replace(path)


def split(shards: Sequence[Path], lines: int, held_out: int, train: Path, held: Path) -> None:
    """Write the last lines to one file and those before to another.

    Args:
        shards: files of `lines` lines in all.
        lines: in all.
        held_out: of them, for validation.
        train: gets the first `lines - held_out`.
        held: gets the others.

    Raises:
        OptionError: there are no lines left to train on.
    """
    if held_out >= lines:
        raise OptionError(
            f"--validation_size ({held_out}) must be below {lines}, the number of lines written"
        )
    left = lines - held_out
    with _partial(train).open("wb") as first, _partial(held).open("wb") as last:
        for shard in shards:
            with shard.open("rb") as file:
                for line in file:
                    (first if left > 0 else last).write(line)
                    left -= 1
    _partial(train).replace(train)
    _partial(held).replace(held)


def require_room(folder: Path, flag: str) -> None:
    """Create a folder for results. Raises DataError where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror} ({flag})") from None
