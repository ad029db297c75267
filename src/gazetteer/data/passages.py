"""Passages on disk: one memory-mapped Arrow file per corpus, read by global row.

Built once from its sources, by streaming, and reused while they are unchanged. A worker keeps a
few bytes per passage in memory; the text stays in the map.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
from gazetteer.data.jsonl import PASSAGE_FIELDS, Field, OnBadLine, read_lines, total_bytes
from gazetteer.errors import DataError, IndexFileError
from gazetteer.files import MANIFEST
from gazetteer.progress import progress
from gazetteer.records import PassageRecord

logger = logging.getLogger(__name__)

ARROW_FILE = "passages.arrow"
ABOUT_FILE = "passages.json"
FORMAT_VERSION = 2
PASSAGES_FOLDER = "passages"
"""Inside a saved index: the text of its rows, so that it can be searched without its sources."""
BATCH_ROWS = 16_384
COLUMNS = ("id", "title", "text", "extra")
SCHEMA = pa.schema([(name, pa.large_string()) for name in COLUMNS])
CORPUS_FIELDS = (
    Field("id", "text", required=True),
    *(field for field in PASSAGE_FIELDS if field.name != "id"),
)


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

    Opening reads the files once, to compare them with their hashes.

    Args:
        folder: written by `write_passages`.

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

    The fingerprint covers every field of every passage and their order, not the files' names.

    Args:
        passages: checked objects; `section` is merged into the title as Atlas does.
        folder: a name of these passages alone; where it is there already, and intact, it stays.
    """
    build_folder(folder, lambda partial: _write(passages, partial))
    return PassageStore(folder)


def _write(passages: Iterable[Mapping[str, Any]], folder: Path) -> None:
    digest, count = hashlib.sha256(), 0
    with (
        pa.OSFile(str(folder / ARROW_FILE), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        for chunk in _chunks(map(_columns, passages), BATCH_ROWS):
            for row in chunk:
                digest.update(json.dumps(row, ensure_ascii=False).encode())
            arrays = [pa.array(column, pa.large_string()) for column in zip(*chunk, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
            count += len(chunk)
    about = {"version": FORMAT_VERSION, "count": count, "fingerprint": digest.hexdigest()}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _columns(passage: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The four columns of a passage. Title and section become one title, as in Atlas."""
    title, section = passage.get("title") or "", passage.get("section") or ""
    known = ("id", "title", "text")
    extra = {key: value for key, value in passage.items() if key not in known}
    merged = f"{title}: {section}" if title and section else title
    packed = json.dumps(extra, ensure_ascii=False) if extra else ""
    return passage.get("id") or "", merged, passage["text"], packed


def _chunks(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def cached_passage_store(
    sources: Sequence[Path],
    cache_dir: Path,
    *,
    max_passages: int = -1,
    on_bad_line: OnBadLine = "error",
    show_progress: bool = False,
) -> PassageStore:
    """The passages of these files, built on first use and reused while the files are unchanged.

    Args:
        sources: jsonl files, read in this order as one corpus.
        cache_dir: holds one folder per corpus.
        max_passages: stop after so many; -1 = all.
        on_bad_line: what a malformed line does.
        show_progress: draw a bar while building.

    Raises:
        DataError: a malformed line, an unreadable file, or no passages at all.
    """
    folder = cached_folder(sources, cache_dir, max_passages=max_passages, on_bad_line=on_bad_line)
    try:
        return PassageStore(folder)
    except IndexFileError:
        pass
    skipped: list[str] = []
    with progress(
        total_bytes(sources, "--passages"), "reading passages", "B", enabled=show_progress
    ) as bar:
        lines = (
            line.value
            for path in sources
            for line in read_lines(
                path,
                CORPUS_FIELDS,
                flag="--passages",
                on_bad_line=on_bad_line,
                on_skip=skipped.append,
                on_bytes=lambda size: bar.update(size),
            )
        )
        wanted = lines if max_passages < 0 else islice(lines, max_passages)
        store = write_passages(wanted, folder)
    if skipped:
        logger.warning("bad lines skipped: %d, the first: %s", len(skipped), skipped[0])
    if store.count == 0:
        shutil.rmtree(folder)
        raise DataError(f"{', '.join(map(str, sources))}: found no passages (--passages)")
    repeated, example = _repeated_ids(store)
    if repeated:
        logger.warning(
            "%d of %d passages have the id of an earlier one, the first: '%s' (--passages)",
            repeated, store.count, example,
        )  # fmt: skip
    return store


def cached_folder(
    sources: Sequence[Path], cache_dir: Path, *, max_passages: int, on_bad_line: OnBadLine
) -> Path:
    """Where `cached_passage_store` keeps the passages of these files, built or not."""
    return cache_dir / "passages" / _source_key(sources, max_passages, on_bad_line)


def stated_facts(folder: Path) -> tuple[int, str] | None:
    """Count and fingerprint that a folder of passages states; None if it holds no such thing.

    Nothing else is read: for a quick look at what may be a large corpus.
    """
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        return int(about["count"]), str(about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _repeated_ids(store: PassageStore) -> tuple[int, str]:
    """How many passages have the id of an earlier one, and the first such id.

    Holds eight bytes per passage: ids are compared by hash first, and only those that agree by
    themselves.
    """
    hashes = np.fromiter(map(hash, store.all_ids()), dtype=np.int64, count=store.count)
    hashes.sort()
    repeats = hashes[1:][hashes[1:] == hashes[:-1]]
    wanted, seen = set(repeats.tolist()), set()
    for passage_id in store.all_ids() if wanted else ():
        if passage_id in seen:
            return len(repeats), passage_id
        if hash(passage_id) in wanted:
            seen.add(passage_id)
    return 0, ""


def _source_key(sources: Sequence[Path], max_passages: int, on_bad_line: str) -> str:
    """Name of the cache folder: changes when a source does."""
    parts: list[Any] = [FORMAT_VERSION, max_passages, on_bad_line]
    for path in sources:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror} (--passages)") from None
        parts.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def copy_passages(store: PassageStore, folder: Path) -> None:
    """Put the passages into another folder, by hard links where the disk allows."""
    if folder.resolve() == store.folder.resolve():
        return
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir(parents=True)
    for name in (ARROW_FILE, ABOUT_FILE, MANIFEST):
        try:
            os.link(store.folder / name, partial / name)
        except OSError:
            shutil.copyfile(store.folder / name, partial / name)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
