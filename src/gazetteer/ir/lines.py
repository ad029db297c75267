"""Files of the field, line by line: JSON objects, JSON lists, tab-separated fields.

What a line means is said by a function from its content to a record, which raises `BadLineError`;
file, line and flag are added here. Files ending in `.gz` are read as they are. Lines end with a
line feed alone: text may hold other line separators.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from gazetteer.data.jsonl import (
    UTF8_MARK,
    BadLineError,
    OnBadLine,
    describe,
    parse_line,
)
from gazetteer.data.passage_rows import split_tsv
from gazetteer.errors import DataError
from gazetteer.ir.fields import Object

Made = TypeVar("Made")
READ_CHARACTERS = 2**20
MAX_MEMBER = 2**26
"""Characters of one member of a list: far beyond any data."""
PARQUET_ROWS = 1024
_WHITE_SPACE = re.compile(r"[ \t\r\n]*")
Make = Callable[[Object], Made | None]
"""From a JSON object to a record, or None to leave it out; raises BadLineError."""
OnBad = Callable[[str], object]
"""Told what is wrong with a line, with file, place and flag; returns to leave the line out."""


def refuse(problem: str) -> NoReturn:
    """Raise what is wrong with a line as a DataError."""
    raise DataError(problem) from None


ON_BAD: Mapping[OnBadLine, OnBad] = {"error": refuse, "skip": lambda problem: None}
"""`--on_bad_line`, where nobody counts."""


class Unique:
    """Refuses what was seen before.

    Args:
        what: the things are, for the message.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """The value itself. Raises BadLineError the second time."""
        if value in self._seen:
            raise BadLineError(f"found {self._what} {describe(value)} twice, expected each once")
        self._seen.add(value)
        return value


def read_objects(
    path: Path, make: Make[Made], *, flag: str, on_bad: OnBad = refuse
) -> Iterator[Made]:
    """Make a record of every line of jsonl, every row of parquet, or every member of a JSON list.

    The file's name and first character say which of them it is. Nothing but the record at hand is
    kept in memory.

    Args:
        path: the file.
        make: from an object to a record.
        flag: named in errors.
        on_bad: what a bad line does.

    Raises:
        DataError: a bad line, unless `on_bad` leaves it out, or a file that cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path, make, flag, on_bad)
    elif _begins_with_list(path, flag):
        yield from _list_members(path, make, flag, on_bad)
    else:

        def parse(line: bytes, is_first: bool) -> Made | None:
            value = parse_line(line, is_first=is_first)
            return None if value is None else make(value)

        yield from _lines(path, parse, flag, on_bad)


def read_fields(
    path: Path,
    make: Callable[[list[str]], Made | None],
    *,
    columns: Collection[int],
    flag: str,
    any_whitespace: bool = False,
    on_bad: OnBad = refuse,
) -> Iterator[Made]:
    """Make a record of every line of tab-separated text: no quoting, no escapes, no missing values.

    Args:
        path: the file.
        make: from the fields of a line to a record; None leaves the line out, as a header.
        columns: how many fields a line may have; all lines have equally many.
        flag: named in errors.
        any_whitespace: take fields apart at any white space where tabs do not give `columns`.
        on_bad: what a bad line does.

    Raises:
        DataError: a bad line, unless `on_bad` leaves it out, or a file that cannot be read.
    """
    found: list[int] = []

    def parse(line: bytes, is_first: bool) -> Made | None:
        fields = split_tsv(line, is_first=is_first)
        if any_whitespace and len(fields) not in columns:
            fields = [field for field in " ".join(fields).split(" ") if field]
        if not fields:
            return None
        if len(fields) not in (found or columns):
            expected = " or ".join(map(str, found or sorted(columns)))
            raise BadLineError(f"found {len(fields)} columns, expected {expected}, split at tabs")
        found[:] = [len(fields)]
        return make(fields)

    yield from _lines(path, parse, flag, on_bad)


def _lines(
    path: Path, parse: Callable[[bytes, bool], Made | None], flag: str, on_bad: OnBad
) -> Iterator[Made]:
    with _opened(path, flag) as file:
        for number, line in enumerate(file, 1):
            try:
                record = parse(line.removesuffix(b"\n"), number == 1)
            except BadLineError as error:
                on_bad(f"{path}:{number}: {error} ({flag})")
                continue
            if record is not None:
                yield record


@contextmanager
def _opened(path: Path, flag: str) -> Iterator[IO[bytes]]:
    try:
        is_gzip = path.suffix.lower() == ".gz"
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file ({error}) ({flag})") from None
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} ({flag})") from None


def _begins_with_list(path: Path, flag: str) -> bool:
    with _opened(path, flag) as file:
        return file.read(1024).removeprefix(UTF8_MARK).lstrip().startswith(b"[")


def _list_members(path: Path, make: Make[Made], flag: str, on_bad: OnBad) -> Iterator[Made]:
    """Members of one JSON list, as long as a file may be: each is parsed when its turn comes."""
    with _opened(path, flag) as file:
        members = _ListReader(file)

        def told(error: BadLineError) -> str:
            return f"{path}:{members.line}: entry {members.count}: {error} ({flag})"

        while True:
            try:
                member = members.next()
            except BadLineError as error:
                # Where the next one begins, nobody knows.
                raise DataError(told(error)) from None
            if member is None:
                return
            try:
                value = parse_line(member.encode())
                if value is None:
                    raise BadLineError("found nothing, expected a JSON object")
                record = make(value)
            except BadLineError as error:
                on_bad(told(error))
                continue
            if record is not None:
                yield record


class _ListReader:
    """Takes the text of a JSON list apart, holding little more of it than one member.

    Attributes:
        count: members begun so far.
        line: where the latest began, from 1.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.count = 0
        self.line = 1
        self._file = io.TextIOWrapper(file, encoding="utf-8-sig", newline="\n")
        self._rest = ""
        self._place = 0
        self._newlines_inside = 0
        self._decoder = json.JSONDecoder()

    def next(self) -> str | None:
        """The text of the next member; None at the end of the list."""
        self.line += self._newlines_inside
        self._newlines_inside = 0
        mark = self._mark()
        if mark == ("," if self.count else "["):
            self._place += 1
            if self.count == 0 and self._mark() == "]":
                mark = "]"
        if mark == "]":
            self._place += 1
            if self._mark():
                raise BadLineError("found more after the end of the list")
            return None
        if mark not in (",", "["):
            raise BadLineError(f"found {mark or 'the end of the file'!r}, expected a comma or ]")
        self._mark()
        self.count += 1
        end = self._member_end()
        member = self._rest[self._place : end]
        self._place, self._newlines_inside = end, member.count("\n")
        return member

    def _mark(self) -> str:
        """The next character that is no white space, where the place then is; "" at the end."""
        while True:
            match = _WHITE_SPACE.match(self._rest, self._place)
            assert match is not None
            self.line += match[0].count("\n")
            self._place = match.end()
            if self._place < len(self._rest):
                return self._rest[self._place]
            if not self._read():
                return ""

    def _member_end(self) -> int:
        while True:
            try:
                return self._decoder.raw_decode(self._rest, self._place)[1]
            except (json.JSONDecodeError, RecursionError) as error:
                too_long = len(self._rest) - self._place > MAX_MEMBER
                if isinstance(error, RecursionError) or too_long or not self._read():
                    reason = getattr(error, "msg", "nested too deeply")
                    raise BadLineError(f"not valid JSON: {reason}") from None

    def _read(self) -> bool:
        """Read on; the place is the start of what is kept."""
        try:
            fresh = self._file.read(READ_CHARACTERS)
        except UnicodeDecodeError:
            raise BadLineError("found other bytes, expected text in UTF-8") from None
        self._rest, self._place = self._rest[self._place :] + fresh, 0
        return bool(fresh)


def _parquet(path: Path, make: Make[Made], flag: str, on_bad: OnBad) -> Iterator[Made]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    try:
                        record = make(row)
                    except BadLineError as error:
                        on_bad(f"{path}: row {number}: {error} ({flag})")
                        continue
                    if record is not None:
                        yield record
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a readable parquet file ({reason}) ({flag})") from None
