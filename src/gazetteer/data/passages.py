"""Passages on disk: one memory-mapped Arrow file per corpus, read by global row.

A worker keeps a few bytes per passage in memory; the text stays in the map. How the sources of a
corpus are read is a matter of `corpus.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gazetteer.data.built_folders import build_folder, require_built
from gazetteer.data.passage_rows import COLUMNS, SCHEMA, Chunk, Row, columns_of, pack_rows
from gazetteer.errors import IndexFileError
from gazetteer.files import MANIFEST
from gazetteer.records import PassageRecord

ARROW_FILE = "passages.arrow"
ABOUT_FILE = "passages.json"
FORMAT_VERSION = 2
PASSAGES_FOLDER = "passages"
"""Inside a saved index: the text of its rows, so that it can be searched without its sources."""
BATCH_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class PassageBatch:
    """Consecutive passages, for tokenising."""

    ids: list[str]
    titles: list[str]
    texts: list[str]
    extras: list[dict[str, Any]]

    def records(self) -> list[PassageRecord]:
        """The passages as users see them."""
        columns = zip(self.ids, self.titles, self.texts, self.extras, strict=True)
        return [{"id": i, "title": t, "text": x, **extra} for i, t, x, extra in columns]


class PassageStore:
    """The passages of a corpus, by row.

    Opening compares the files with their hashes, large ones only if they changed since.

    Args:
        folder: written by `write_passages` or `write_chunks`.

    Raises:
        IndexFileError: the folder holds no passages, or damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        require_built(folder, "passages")
        self.folder = folder
        try:
            about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
            self._batches = _open_batches(folder / ARROW_FILE)
            self.fingerprint: str = about["fingerprint"]
            self._starts = np.cumsum([0] + [batch.num_rows for batch in self._batches])
            if (about["version"], about["count"]) != (FORMAT_VERSION, self.count):
                raise ValueError(f"{ABOUT_FILE} tells of another format or count")
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise IndexFileError(f"{folder}: unknown passages ({error})") from None

    @property
    def count(self) -> int:
        """Passages in the corpus."""
        return int(self._starts[-1])

    def records(self, rows: Sequence[int] | np.ndarray) -> list[PassageRecord]:
        """The passages at these rows, in this order: id, title, text and every other field.

        Ask for many rows at once where you can: each Arrow batch is then read once.
        """
        columns = (self._take(name, rows) for name in COLUMNS)
        return [
            {"id": i, "title": t, "text": x, **(json.loads(extra) if extra else {})}
            for i, t, x, extra in zip(*columns, strict=True)
        ]

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Passage ids at these rows."""
        return self._take("id", rows)

    def all_ids(self) -> Iterator[str]:
        """The id of every passage, in order of row."""
        for batch in self._batches:
            yield from batch.column("id").to_pylist()

    def batches(self, rows: range, size: int = BATCH_ROWS) -> Iterator[PassageBatch]:
        """Consecutive passages of a range of rows, `size` at a time."""
        for first in range(rows.start, rows.stop, size):
            yield self._slice(first, min(first + size, rows.stop))

    def _slice(self, start: int, stop: int) -> PassageBatch:
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        while start < stop:
            number = int(np.searchsorted(self._starts, start, side="right")) - 1
            offset = start - int(self._starts[number])
            taken = min(stop - start, self._batches[number].num_rows - offset)
            part = self._batches[number].slice(offset, taken)
            for name in COLUMNS:
                columns[name] += part.column(name).to_pylist()
            start += taken
        extras = [json.loads(text) if text else {} for text in columns["extra"]]
        return PassageBatch(columns["id"], columns["title"], columns["text"], extras)

    def _take(self, column: str, rows: Sequence[int] | np.ndarray) -> list[Any]:
        wanted = np.asarray(rows, dtype=np.int64)
        outside = wanted[(wanted < 0) | (wanted >= self.count)]
        if outside.size:
            raise IndexError(f"row {outside[0]} of {self.count} passages")
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        values = np.empty(len(wanted), dtype=object)
        for number in np.unique(numbers).tolist():
            places = numbers == number
            offsets = wanted[places] - self._starts[number]
            values[places] = self._batches[number].column(column).take(offsets).to_pylist()
        return values.tolist()


def _open_batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if reader.schema != SCHEMA:
        raise ValueError(f"unexpected columns {reader.schema.names}")
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def write_passages(passages: Iterable[Mapping[str, Any]], folder: Path) -> PassageStore:
    """Write a corpus; the folder appears whole or not at all.

    Args:
        passages: checked objects; `section` is merged into the title as Atlas does.
        folder: a name of these passages alone; where it is there already, and intact, it stays.
    """
    return write_chunks(_chunks(map(columns_of, passages), BATCH_ROWS), folder)


def _chunks(rows: Iterable[Row], size: int) -> Iterator[Chunk]:
    iterator = iter(rows)
    while some := list(islice(iterator, size)):
        batch, hashed = pack_rows(some)
        yield Chunk(batch, hashed, len(some))


def write_chunks(chunks: Iterable[Chunk], folder: Path) -> PassageStore:
    """Write a corpus that is parsed already, one record batch per chunk.

    The fingerprint covers every field of every passage and their order, not the files' names, nor
    how they were cut into chunks.

    Args:
        chunks: in order; those without rows leave no trace.
        folder: as for `write_passages`.
    """
    build_folder(folder, lambda partial: _write(chunks, partial))
    return PassageStore(folder)


def _write(chunks: Iterable[Chunk], folder: Path) -> None:
    digest, count = hashlib.sha256(), 0
    with (
        pa.OSFile(str(folder / ARROW_FILE), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        for chunk in chunks:
            if chunk.batch.num_rows:
                digest.update(chunk.hashed)
                writer.write_batch(chunk.batch)
                count += chunk.batch.num_rows
    about = {"version": FORMAT_VERSION, "count": count, "fingerprint": digest.hexdigest()}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def stated_facts(folder: Path) -> tuple[int, str] | None:
    """Count and fingerprint that a folder of passages states; None if it holds no such thing.

    Nothing else is read: for a quick look at what may be a large corpus.
    """
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        return int(about["count"]), str(about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def copy_passages(store: PassageStore, folder: Path) -> None:
    """Put the passages into another folder, by hard links where the disk allows.

    If the same passages are there, nothing is touched; else others serve until these are whole.
    """
    try:
        if PassageStore(folder).fingerprint == store.fingerprint:
            return
    except IndexFileError:
        pass
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    for name in (ARROW_FILE, ABOUT_FILE, MANIFEST):
        try:
            os.link(store.folder / name, partial / name)
        except OSError:
            shutil.copyfile(store.folder / name, partial / name)
    if folder.exists():
        folder.rename(partial.with_suffix(".old"))
    partial.rename(folder)
    shutil.rmtree(partial.with_suffix(".old"), ignore_errors=True)
