"""The passages of `--passages`: read from their files once, by all cores, and kept in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from gazetteer.data.jsonl import OnBadLine, total_bytes
from gazetteer.data.passage_files import (
    AS_NAMED,
    TSV_VERSION,
    SourceBlock,
    names_tsv,
    place_of,
    read_blocks,
)
from gazetteer.data.passage_rows import Chunk, SourceFormat, parse_block
from gazetteer.data.passage_workers import parse_here, parse_in_processes, usable_processes
from gazetteer.data.passages import FORMAT_VERSION, PassageStore, write_chunks
from gazetteer.errors import DataError, IndexFileError
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

PARALLEL_BYTES = 20 * 10**6
"""Smaller sources are read before other processes have started."""
PARALLEL_PASSAGES = 20_000


@dataclass(frozen=True, slots=True)
class CorpusSize:
    """Passages in files, and whether every line of them was counted."""

    count: int
    is_exact: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of the store that came from one block.

    Attributes:
        first_row: of the store.
        path: the source file.
        first_line: of the block, from 1.
        is_gapless: every line of the block is a row.
    """

    first_row: int
    path: Path
    first_line: int
    is_gapless: bool


def cached_passage_store(
    sources: Sequence[Path],
    cache_dir: Path,
    *,
    max_passages: int = -1,
    on_bad_line: OnBadLine = "error",
    show_progress: bool = False,
    processes: int | None = None,
    form: SourceFormat = AS_NAMED,
) -> PassageStore:
    """The passages of these files, built on first use and reused while the files are unchanged.

    What is built does not depend on the number of processes, to the byte.

    Args:
        sources: files as `passage_files` knows them, read in this order as one corpus.
        cache_dir: holds one folder per corpus.
        max_passages: stop after so many; -1 = all.
        on_bad_line: what a malformed line does.
        show_progress: draw a bar while building.
        processes: that parse; None = one for each core, or this one alone for small sources.
        form: what the names of the files do not say.

    Raises:
        DataError: a malformed line, an unreadable file, or no passages at all.
    """
    folder = cached_folder(
        sources, cache_dir, max_passages=max_passages, on_bad_line=on_bad_line, form=form
    )
    try:
        return PassageStore(folder)
    except IndexFileError:
        pass
    size = total_bytes(sources, form.flag)
    if processes is None:
        is_small = size < PARALLEL_BYTES or 0 <= max_passages < PARALLEL_PASSAGES
        processes = 1 if is_small else usable_processes()
    with progress(size, "reading passages", "B", enabled=show_progress) as bar:
        reading = _Reading(on_bad_line, max_passages, bar, form.flag)
        with _parsed(sources, on_bad_line, processes, form) as parsed:
            store = write_chunks(reading.chunks(parsed), folder)
    if reading.skipped:
        logger.warning(
            "bad lines skipped: %d, the first: %s", reading.skipped, reading.first_skipped
        )
    if store.count == 0:
        shutil.rmtree(folder)
        raise DataError(f"{', '.join(map(str, sources))}: found no passages ({form.flag})")
    _warn_of_repeated_ids(store, reading.spans, form.flag)
    return store


@contextmanager
def _parsed(
    sources: Sequence[Path], on_bad_line: OnBadLine, processes: int, form: SourceFormat
) -> Iterator[Iterator[tuple[SourceBlock, Chunk]]]:
    blocks = (block for path in sources for block in read_blocks(path, form))
    if processes < 2:
        yield parse_here(blocks, on_bad_line)
        return
    with parse_in_processes(blocks, on_bad_line, processes) as parsed:
        yield parsed


class _Reading:
    """Turns parsed blocks into what is written, and remembers where it was from."""

    def __init__(self, on_bad_line: OnBadLine, max_passages: int, bar: tqdm, flag: str) -> None:
        self.spans: list[Span] = []
        self.skipped = 0
        self.first_skipped = ""
        self._on_bad_line: OnBadLine = on_bad_line
        self._limit = max_passages
        self._bar = bar
        self._flag = flag

    def chunks(self, parsed: Iterator[tuple[SourceBlock, Chunk]]) -> Iterator[Chunk]:
        """What is to be written; ends where enough is.

        Raises:
            DataError: a bad line, unless these are skipped; a file that breaks off.
        """
        rows, lines, position = 0, 0, 0
        if self._limit == 0:
            return
        for source, chunk in parsed:
            if source.block.is_first:
                lines, position = 0, 0
            missing = self._limit - rows
            is_last = self._limit >= 0 and chunk.batch.num_rows >= missing
            if is_last:
                # Anew, because what comes after the last passage wanted was not to be looked at.
                chunk = parse_block(source.block, self._on_bad_line, missing)
            self._account_for(source.path, lines, chunk)
            if source.problem:
                where = place_of(source.path, lines + 1)
                raise DataError(f"{where}: {source.problem} ({self._flag})")
            is_gapless = chunk.lines == chunk.batch.num_rows
            self.spans.append(Span(rows, source.path, lines + 1, is_gapless))
            rows += chunk.batch.num_rows
            lines += chunk.lines
            self._bar.update(source.position - position)
            position = source.position
            yield chunk
            if is_last:
                return

    def _account_for(self, path: Path, lines: int, chunk: Chunk) -> None:
        for number, problem in chunk.bad:
            message = f"{place_of(path, lines + number)}: {problem} ({self._flag})"
            if self._on_bad_line == "error":
                raise DataError(message)
            self.skipped += 1
            self.first_skipped = self.first_skipped or message


def cached_folder(
    sources: Sequence[Path],
    cache_dir: Path,
    *,
    max_passages: int,
    on_bad_line: OnBadLine,
    form: SourceFormat = AS_NAMED,
) -> Path:
    """Where `cached_passage_store` keeps the passages of these files, built or not."""
    return cache_dir / "passages" / _source_key(sources, max_passages, on_bad_line, form)


def _source_key(
    sources: Sequence[Path], max_passages: int, on_bad_line: str, form: SourceFormat
) -> str:
    """Name of the cache folder: changes when a source does, or how it is read."""
    parts: list[Any] = [FORMAT_VERSION, max_passages, on_bad_line]
    if form != AS_NAMED:
        parts += [form.columns, form.id_names, form.needs_text]
    elif any(map(names_tsv, sources)):
        parts.append(TSV_VERSION)
    for path in sources:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: {error.strerror} ({form.flag})") from None
        parts.append([str(path.resolve()), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _warn_of_repeated_ids(store: PassageStore, spans: Sequence[Span], flag: str) -> None:
    repeated, example, row = _repeated_ids(store)
    if not repeated:
        return
    span = next(span for span in reversed(spans) if span.first_row <= row)
    line = span.first_line + row - span.first_row
    where = f"at {place_of(span.path, line)}" if span.is_gapless else f"in {span.path}"
    logger.warning(
        "%d of %d passages have the id of an earlier one, the first: '%s' %s (%s)",
        repeated, store.count, example, where, flag,
    )  # fmt: skip


def _repeated_ids(store: PassageStore) -> tuple[int, str, int]:
    """How many passages have the id of an earlier one; the first such id, and its row.

    Holds eight bytes per passage: ids are compared by hash first, and only those that agree by
    themselves.
    """
    hashes = np.fromiter(map(hash, store.all_ids()), dtype=np.int64, count=store.count)
    hashes.sort()
    repeats = hashes[1:][hashes[1:] == hashes[:-1]]
    wanted, seen = set(repeats.tolist()), set()
    for row, passage_id in enumerate(store.all_ids() if wanted else ()):
        if passage_id in seen:
            return len(repeats), passage_id, row
        if hash(passage_id) in wanted:
            seen.add(passage_id)
    return 0, "", -1


def estimate_passages(path: Path, on_bad_line: OnBadLine, probed: int) -> CorpusSize:
    """About how many passages a file holds, by its first ones; parquet says how many rows.

    Args:
        path: a source file.
        on_bad_line: what a malformed line among them does.
        probed: so many are checked.

    Raises:
        DataError: one of these is malformed, or the file cannot be read.
    """
    blocks: list[SourceBlock] = []
    with progress(None, "", "B", enabled=False) as bar:
        reading = _Reading(on_bad_line, probed + 1, bar, AS_NAMED.flag)
        parsed = parse_here(_noted(read_blocks(path), blocks), on_bad_line)
        used = list(reading.chunks(parsed))
    found = sum(chunk.batch.num_rows for chunk in used)
    if found <= probed:
        return CorpusSize(found, is_exact=True)
    last = blocks[-1]
    if last.block.kind == "arrow":
        return CorpusSize(pq.read_metadata(path).num_rows, is_exact=on_bad_line == "error")
    before = blocks[-2].position if len(blocks) > 1 else 0
    share = used[-1].lines / len(last.block.content.splitlines())
    read = before + (last.position - before) * share
    return CorpusSize(round(found * path.stat().st_size / read), is_exact=False)


def _noted(blocks: Iterator[SourceBlock], seen: list[SourceBlock]) -> Iterator[SourceBlock]:
    for block in blocks:
        seen.append(block)
        yield block
