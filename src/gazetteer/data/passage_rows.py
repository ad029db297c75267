"""From a block of a source file to Arrow: parsed, checked, and in the form that is fingerprinted.

Needs no torch: the processes that share this work import little more than this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from gazetteer.data.jsonl import (
    PASSAGE_FIELDS,
    UTF8_MARK,
    BadLineError,
    Field,
    OnBadLine,
    check_fields,
    decode_line,
    parse_line,
    refuse_other_formats,
)

COLUMNS = ("id", "title", "text", "extra")
SCHEMA = pa.schema([(name, pa.large_string()) for name in COLUMNS])
CORPUS_FIELDS = (
    Field("id", "text", required=True),
    *(field for field in PASSAGE_FIELDS if field.name != "id"),
)
KNOWN = tuple(field.name for field in CORPUS_FIELDS)
IDS_OF_OTHERS = ("_id", "id", "text_id", "sample_id")
"""What BEIR and OpenMatch call the id."""
IDS_WITHOUT_ID = ("_id", "docid", "text_id")
"""Of BEIR, of Tevatron, of OpenMatch: the id of a passage that has no `id`."""
Row = tuple[str, str, str, str]
_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class SourceFormat:
    """What the name of a source does not say of it.

    Attributes:
        flag: that names the source; in errors.
        columns: of tab-separated text, which then has no header and no quotes, and may be called
            `.txt` as well; empty lets the first lines decide.
        id_names: the first of these fields that is there is the id, and may be a whole number;
            empty: it is `id`, and text, or where there is none one of `IDS_WITHOUT_ID`.
        needs_text: a passage without `text` is a bad line, not one with an empty text.
    """

    flag: str = "--passages"
    columns: tuple[str, ...] = ()
    id_names: tuple[str, ...] = ()
    needs_text: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines or rows of a source file, in a row.

    Attributes:
        kind: "jsonl" and "tsv": whole lines; "arrow": a stream of one record batch.
        content: the lines, or the stream.
        is_first: of its file.
        columns: names of the columns of a tsv; empty for other kinds.
        header: number of the line that names the columns and is no passage, from 1; 0 for none.
        is_quoted: fields of the tsv in quotes lose them (see `passage_files`).
        id_names: see `SourceFormat`.
        needs_text: likewise.
    """

    kind: Literal["jsonl", "tsv", "arrow"]
    content: bytes
    is_first: bool = False
    columns: tuple[str, ...] = ()
    header: int = 0
    is_quoted: bool = False
    id_names: tuple[str, ...] = ()
    needs_text: bool = True


@dataclass(frozen=True, slots=True)
class Chunk:
    """What became of a block.

    Attributes:
        batch: its good rows, columns as in `SCHEMA`.
        hashed: what the fingerprint of a corpus is made of, for these rows.
        lines: lines or rows read: the whole block, unless a limit or an error ended it.
        bad: number in the block, from 1, of each bad line, and what is wrong with it.
    """

    batch: pa.RecordBatch
    hashed: bytes
    lines: int
    bad: tuple[tuple[int, str], ...] = ()


def parse_block(block: Block, on_bad_line: OnBadLine, limit: int = -1) -> Chunk:
    """Parse and check every line of a block.

    Args:
        block: whole lines or rows.
        on_bad_line: end with the first bad line, or leave bad ones out.
        limit: end after so many good rows; -1 = all.
    """
    rows: list[Row] = []
    bad: list[tuple[int, str]] = []
    lines = 0
    for parse in _parsers(block) if limit else ():
        lines += 1
        try:
            passage = parse()
            if passage is None:
                continue
            if block.id_names:
                passage = with_id(passage, block.id_names)
            elif passage.get("id") is None:
                passage = with_id(passage, IDS_WITHOUT_ID)
            if not block.needs_text:
                passage = {"text": "", **passage}
            check_fields(passage, CORPUS_FIELDS)
            rows.append(columns_of(passage))
        except BadLineError as error:
            bad.append((lines, str(error)))
            if on_bad_line == "error":
                break
        if len(rows) == limit:
            break
    batch, hashed = pack_rows(rows)
    return Chunk(batch, hashed, lines, tuple(bad))


def with_id(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A record whose id is text and called `id`, whatever its source called it."""
    name = next((name for name in names if record.get(name) is not None), None)
    if name is None:
        return dict(record)
    value = record[name]
    rest = {key: member for key, member in record.items() if key != name}
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return {**rest, "id": str(value) if is_number else value}


def columns_of(passage: Mapping[str, Any]) -> Row:
    """The four columns of a passage. Title and section become one title, as in Atlas."""
    title, section = passage.get("title") or "", passage.get("section") or ""
    extra = {key: value for key, value in passage.items() if key not in ("id", "title", "text")}
    merged = f"{title}: {section}" if title and section else title
    packed = _encode(extra) if extra else ""
    return passage.get("id") or "", merged, passage["text"], packed


def pack_rows(rows: Sequence[Row]) -> tuple[pa.RecordBatch, bytes]:
    """Rows as a record batch, and what the fingerprint takes of them."""
    hashed = "".join(map(_encode, rows)).encode()
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(column, pa.large_string()) for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA), hashed


Parser = Callable[[], Mapping[str, Any] | None]
"""Parses one line when called: None if it is blank, BadLineError if it is bad."""


def _parsers(block: Block) -> Iterator[Parser]:
    if block.kind == "arrow":
        yield from _arrow_parsers(block.content)
        return
    # Lines end with a line feed alone: text may hold whatever else separates lines.
    lines = block.content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines):
        is_first = block.is_first and number == 0
        if block.kind == "tsv":
            if number + 1 == block.header:
                yield lambda: None
                continue
            yield lambda line=line, first=is_first: _parse_tsv(line, block, is_first=first)
        else:
            yield lambda line=line, first=is_first: parse_line(line, is_first=first)


def _parse_tsv(line: bytes, block: Block, *, is_first: bool) -> dict[str, str | None] | None:
    fields = split_tsv(line, is_first=is_first)
    if not fields:
        return None
    if len(fields) != len(block.columns):
        expected = f"{len(block.columns)} ({', '.join(block.columns)})"
        raise BadLineError(f"found {columns_found(fields)}, expected {expected}, split at tabs")
    if block.is_quoted:
        fields = [unquoted(field) for field in fields]
    # A text may be empty, as any text; an empty id is none.
    named = zip(block.columns, fields, strict=True)
    ids = {*block.id_names, "id", *IDS_WITHOUT_ID}
    return {name: field for name, field in named if field or name not in ids}


def columns_found(fields: Sequence[str]) -> str:
    """How many columns a line has, in words."""
    return f"{len(fields)} column{'' if len(fields) == 1 else 's'}"


def split_tsv(line: bytes, *, is_first: bool) -> list[str]:
    """Fields of a line of tab-separated text: no quoting, no escapes; none for a blank line.

    Raises:
        BadLineError: it is not text in UTF-8.
    """
    if is_first:
        refuse_other_formats(line, "tab-separated text")
        line = line.removeprefix(UTF8_MARK)
    text = decode_line(line.removesuffix(b"\r"))
    if "\0" in text:
        raise BadLineError("found a NUL character, expected text")
    return text.split("\t") if text else []


def unquoted(field: str) -> str:
    """A field without the quotes a CSV writer put around it; others as they are."""
    return field[1:-1].replace('""', '"') if is_quoted(field) else field


def is_quoted(field: str) -> bool:
    """Whether a field is in quotes, and every quote inside is doubled."""
    inner = field[1:-1]
    in_quotes = len(field) > 1 and field[0] == field[-1] == '"'
    return in_quotes and '"' not in inner.replace('""', "")


def _arrow_parsers(stream: bytes) -> Iterator[Parser]:
    batch = pa.ipc.open_stream(stream).read_next_batch()
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield lambda values=values: _checked(dict(zip(batch.schema.names, values, strict=True)))


def _values(column: pa.Array) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:  # noqa: ANN401 - whatever the column holds
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return error


def _checked(passage: dict[str, Any]) -> dict[str, Any]:
    for name, value in passage.items():
        if isinstance(value, UnicodeDecodeError):
            raise BadLineError(f"field '{name}': found other bytes, expected text in UTF-8")
        if isinstance(value, str) and "\0" in value:
            raise BadLineError(f"field '{name}': found a NUL character, expected text")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadLineError(f"field '{name}': found {value}, expected only finite numbers")
    return passage
