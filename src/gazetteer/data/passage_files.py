"""The files a corpus comes from, cut into blocks: jsonl and tsv, plain or compressed, and parquet.

The end of a file's name says what it is: `.gz` or `.zst`, `.tsv`, `.parquet`; anything else is
jsonl. Tab-separated text is split at every tab and nowhere else: no quoting, no escapes, no missing
values. The one exception is what DPR's `psgs_w100.tsv` looks like, where a CSV writer put every
text in quotes and doubled those inside: if that holds for all of the first lines, fields in such
quotes lose them, throughout the file. Without a header the number of columns names them: id and
text, or id and two others, of which the longer is the text.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gazetteer.data.jsonl import UTF8_MARK, BadLineError, refuse_other_formats
from gazetteer.data.passage_rows import (
    CORPUS_FIELDS,
    IDS_WITHOUT_ID,
    KNOWN,
    Block,
    SourceFormat,
    columns_found,
    is_quoted,
    split_tsv,
)
from gazetteer.errors import DataError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 4 * 2**20
BLOCK_ROWS = 4096
"""Of parquet: about as much text."""
MAX_LINE_BYTES = 64 * 2**20
"""Far beyond any passage. A small compressed file could otherwise hold a line of any length."""
CODECS = {".gz": "gzip", ".zst": "zstd"}
FIRST_LINES = 100
"""So many lines decide how many columns a tsv without header has, which of them is the text, and
whether texts are in quotes."""
TSV_VERSION = 3
"""Changes with what the columns of tab-separated text are taken for."""
WITHOUT_HEADER = {2: ("id", "text"), 3: ("id", "text", "title")}
"""By the number of columns: three are DPR's."""
TITLE_FIRST = ("id", "title", "text")
"""Three columns of MS MARCO with titles."""
AS_NAMED = SourceFormat()
"""The end of a source's name says all."""


@dataclass(frozen=True, slots=True)
class SourceBlock:
    """A block, and where it is from.

    Attributes:
        path: the source file.
        block: what is to be parsed; an empty one where the file could not be read any further.
        position: bytes of the file used up so far, this block included.
        problem: why it could not be read: without file, line and flag.
    """

    path: Path
    block: Block
    position: int
    problem: str = ""

    @classmethod
    def failed(cls, path: Path, position: int, problem: str, *, is_first: bool) -> SourceBlock:
        """The end of a file that cannot be read any further."""
        return cls(path, Block("jsonl", b"", is_first), position, problem)


def place_of(path: Path, number: int) -> str:
    """A line of a source, or a row of a parquet file, for a message; both count from 1."""
    return f"{path}: row {number}" if _kind(path) == "parquet" else f"{path}:{number}"


def read_blocks(path: Path, form: SourceFormat = AS_NAMED) -> Iterator[SourceBlock]:
    """Cut a file into blocks: always the same ones, compressed or not.

    What stops the reading comes as the last block, so that a bad line before it is told first.

    Raises:
        DataError: the file cannot be opened, or its columns cannot be used.
    """
    try:
        if _kind(path) == "parquet":
            yield from _parquet_blocks(path, form)
        else:
            yield from _text_blocks(path, form)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} ({form.flag})") from None


def names_tsv(path: Path, form: SourceFormat = AS_NAMED) -> bool:
    """Whether the name of a file says tab-separated text."""
    return _kind(path, form) == "tsv"


def _kind(path: Path, form: SourceFormat = AS_NAMED) -> str:
    name = path.name.lower()
    for suffix in CODECS:
        name = name.removesuffix(suffix)
    if name.endswith(".parquet"):
        return "parquet"
    is_tsv = name.endswith((".tsv", ".txt") if form.columns else ".tsv")
    return "tsv" if is_tsv else "jsonl"


def _text_blocks(path: Path, form: SourceFormat) -> Iterator[SourceBlock]:
    codec = CODECS.get(path.suffix.lower())
    with ExitStack() as stack:
        raw = stack.enter_context(path.open("rb"))
        source = raw
        if codec is not None:
            if path.stat().st_size == 0:
                nothing = f"found nothing, expected {codec}"
                yield SourceBlock.failed(path, 0, nothing, is_first=True)
                return
            source = stack.enter_context(pa.CompressedInputStream(raw, codec))
        layout = _layout(path, form)
        blocks = _whole_lines(source)
        while True:
            try:
                content = next(blocks)
                if layout.kind == "tsv" and layout.is_first:
                    _refuse_other_files(content)
                if layout.kind == "tsv" and not layout.columns:
                    layout = replace(layout, **_tsv_columns(content))
            except StopIteration:
                return
            except BadLineError as error:
                yield SourceBlock.failed(path, raw.tell(), str(error), is_first=layout.is_first)
                return
            except OSError as error:
                if codec is None:
                    raise
                reason = f"not a whole {codec} file ({error})"
                yield SourceBlock.failed(path, raw.tell(), reason, is_first=layout.is_first)
                return
            yield SourceBlock(path, replace(layout, content=content), raw.tell())
            layout = replace(layout, is_first=False, header=0)


def _whole_lines(source: IO[bytes]) -> Iterator[bytes]:
    """Cut a stream after the last line end in every `BLOCK_BYTES`, or later in a long line."""
    rest = b""
    while fresh := _read_fully(source, BLOCK_BYTES):
        whole, end, begun = fresh.rpartition(b"\n")
        if end:
            yield rest + whole + end
            rest = begun
        else:
            rest += fresh
        if len(rest) > MAX_LINE_BYTES:
            raise BadLineError(f"found a line longer than {MAX_LINE_BYTES >> 20} MiB")
    if rest:
        yield rest


def _read_fully(source: IO[bytes], size: int) -> bytes:
    """As many bytes as asked for, except at the end: streams may give fewer at a time."""
    parts = [source.read(size)]
    missing = size - len(parts[0])
    while missing and parts[-1]:
        parts.append(source.read(missing))
        missing -= len(parts[-1])
    return b"".join(parts)


def _layout(path: Path, form: SourceFormat) -> Block:
    """What is known of every block of a file before it is read, and that this is the first."""
    is_tsv = _kind(path, form) == "tsv"
    return Block(
        "tsv" if is_tsv else "jsonl",
        b"",
        is_first=True,
        columns=form.columns if is_tsv else (),
        id_names=form.id_names,
        needs_text=form.needs_text,
    )


def _refuse_other_files(content: bytes) -> None:
    """Raise BadLineError if a file of tab-separated text begins like something else."""
    refuse_other_formats(content, "tab-separated text")
    if b"\r" in content.rstrip(b"\r\n") and b"\n" not in content.rstrip(b"\n"):
        raise BadLineError("found lines that end with a carriage return alone, expected line feeds")


def _tsv_columns(content: bytes) -> dict[str, Any]:
    """What the first lines say of a file: names of its columns, a header, quotes.

    Not the very first line alone: it may be a bad one.

    Raises:
        BadLineError: the columns cannot be known.
    """
    lines = content.removeprefix(UTF8_MARK).split(b"\n")
    rows = dict(islice(_good_fields(lines), FIRST_LINES))
    header = next((number for number, names in rows.items() if _is_header(names)), 0)
    below = [fields for number, fields in rows.items() if number > header]
    columns = tuple(rows[header]) if header else _columns_without_header(lines[0], below)
    if len(set(columns)) < len(columns) or not all(columns):
        raise BadLineError("found a header with a name twice or empty, expected each name once")
    texts = [row[columns.index("text")] for row in below if len(row) == len(columns)]
    all_quoted = bool(texts) and all(map(is_quoted, texts))
    return {"columns": columns, "header": header, "is_quoted": all_quoted}


def _is_header(fields: Sequence[str]) -> bool:
    return "text" in fields and not {"id", *IDS_WITHOUT_ID}.isdisjoint(fields)


def _columns_without_header(first: bytes, rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Names of the columns, by how many most of the rows have.

    Raises:
        BadLineError: so many have no names; what is wrong with the first line is said.
    """
    ((usual, _),) = Counter(map(len, rows)).most_common(1) or ((0, 0),)
    columns = WITHOUT_HEADER.get(usual)
    if columns is None:
        raise BadLineError(
            f"found {columns_found(split_tsv(first, is_first=True))}, split at tabs, and no header "
            "that names 'id' and 'text'; expected id, text, title, or such a header"
        )
    if len(columns) == 3:
        whole = [row for row in rows if len(row) == 3]
        second, third = (sum(len(row[place]) for row in whole) for place in (1, 2))
        if third > second:
            columns = TITLE_FIRST
    return columns


def _good_fields(lines: Sequence[bytes]) -> Iterator[tuple[int, list[str]]]:
    """Number, from 1, and fields of each line that is text and not blank."""
    for number, line in enumerate(lines, 1):
        try:
            fields = split_tsv(line, is_first=False)
        except BadLineError:
            continue
        if fields:
            yield number, fields


def _parquet_blocks(path: Path, form: SourceFormat) -> Iterator[SourceBlock]:
    rows, size = 0, path.stat().st_size
    try:
        if path.suffix.lower() in CODECS:
            raise pa.ArrowInvalid("parquet compresses by itself: expected a name in .parquet")
        with pq.ParquetFile(path, pre_buffer=False) as file:
            total = max(1, file.metadata.num_rows)
            columns = _parquet_columns(path, file.schema_arrow, form.flag)
            # Without threads, which keep several row groups in memory.
            for batch in file.iter_batches(BLOCK_ROWS, columns=columns, use_threads=False):
                # A dot in a name also selects a part of a nested column.
                batch = batch.select([name for name in batch.schema.names if name in columns])
                rows += batch.num_rows
                block = Block("arrow", _as_stream(batch), is_first=rows == batch.num_rows)
                yield SourceBlock(path, block, size * rows // total)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:200]
        problem = f"not a readable parquet file ({reason})"
        yield SourceBlock.failed(path, size, problem, is_first=rows == 0)


def _as_stream(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _parquet_columns(path: Path, schema: pa.Schema, flag: str) -> list[str]:
    """Columns that are read: those of a passage, and others of one text, number or truth each."""
    for field in CORPUS_FIELDS:
        found = [column.type for column in schema if column.name == field.name]
        if len(found) > 1:
            raise DataError(f"{path}: field '{field.name}': found two such columns ({flag})")
        if field.name == "id" and any(column.name in IDS_WITHOUT_ID for column in schema):
            continue
        if not found and field.required:
            raise DataError(f"{path}: field '{field.name}': found no such column ({flag})")
        if found and not (_is_text(found[0]) or pa.types.is_null(found[0])):
            raise DataError(
                f"{path}: field '{field.name}': found a column of {found[0]}, expected strings "
                f"({flag})"
            )
    others = [column.name for column in schema if column.name not in KNOWN]
    kept = [column.name for column in schema if column.name in KNOWN or _is_plain(column.type)]
    kept = [name for name in kept if name in KNOWN or others.count(name) == 1]
    left_out = sorted(set(others) - set(kept))
    if left_out:
        logger.warning(
            "%s: columns left out, since they are no texts, numbers or booleans: %s (%s)",
            path, ", ".join(left_out), flag,
        )  # fmt: skip
    return kept


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_plain(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return numbers or _is_text(kind) or pa.types.is_boolean(kind)
