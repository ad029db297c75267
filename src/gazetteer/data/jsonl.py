"""Strict reading of jsonl: one JSON object per line, UTF-8, and the types we rely on.

What is wrong is said in one line that names file, line, field, what was found, what was expected,
and the flag that named the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from gazetteer.errors import DataError

OnBadLine = Literal["error", "skip"]
Kind = Literal["text", "texts", "passages"]

EXPECTED: dict[Kind, str] = {
    "text": "a string",
    "texts": "a list of strings, not empty",
    "passages": "a list of objects with string fields 'title' and 'text'",
}
UTF8_MARK = b"\xef\xbb\xbf"
OTHER_FORMATS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"PAR1": "parquet",
}


@dataclass(frozen=True, slots=True)
class Field:
    """A field whose type is checked.

    Attributes:
        name: key in the object.
        kind: "text" (a string), "texts" (a list of strings, not empty) or "passages" (a list of
            objects with text in `text` and, where present, `title`).
        required: must be there; otherwise it may be missing or null.
    """

    name: str
    kind: Kind
    required: bool


@dataclass(frozen=True, slots=True)
class Line:
    """One good line.

    Attributes:
        number: in the file, from 1, blank lines counted.
        offset: where it begins, in bytes.
        value: the parsed object.
    """

    number: int
    offset: int
    value: dict[str, Any]


class BadLineError(ValueError):
    """What is wrong with one line; the reader adds file, line and flag."""


def read_lines(
    path: Path,
    fields: Sequence[Field],
    *,
    flag: str,
    on_bad_line: OnBadLine = "error",
    on_skip: Callable[[str], None] | None = None,
    on_bytes: Callable[[int], object] | None = None,
) -> Iterator[Line]:
    """Read a file line by line, checking each.

    Lines end with a line feed alone (text may hold other line separators). Blank lines are passed over;
    a byte-order mark at the start and carriage returns at line ends are tolerated.

    Args:
        path: the file.
        fields: types to check; other fields are free.
        flag: named in errors.
        on_bad_line: raise, or leave the line out.
        on_skip: told what was wrong with each line left out.
        on_bytes: told the size of each line, for a progress bar.

    Raises:
        DataError: a bad line, or a file that cannot be read.
    """
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                start, offset = offset, offset + len(raw)
                if on_bytes is not None:
                    on_bytes(len(raw))
                try:
                    value = parse_line(raw, is_first=number == 1)
                    if value is None:
                        continue
                    check_fields(value, fields)
                except BadLineError as error:
                    message = f"{path}:{number}: {error} ({flag})"
                    if on_bad_line == "error":
                        raise DataError(message) from None
                    if on_skip is not None:
                        on_skip(message)
                    continue
                yield Line(number, start, value)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} ({flag})") from None


def parse_line(raw: bytes, *, is_first: bool = False) -> dict[str, Any] | None:
    """One line of bytes as an object; None for a blank line.

    Raises:
        BadLineError: it is not one JSON object in UTF-8 with unique keys and finite numbers.
    """
    if is_first:
        _refuse_other_formats(raw)
        raw = raw.removeprefix(UTF8_MARK)
    if not raw.strip():
        return None
    value = _parse_json(_decode(raw))
    if not isinstance(value, dict):
        raise BadLineError(f"found {describe(value)}, expected a JSON object")
    if b"\\u" in raw:
        _check_strings(value, "")
    return value


def _refuse_other_formats(raw: bytes) -> None:
    for mark, name in OTHER_FORMATS.items():
        if raw.startswith(mark):
            raise BadLineError(f"found {name}, expected plain jsonl in UTF-8")


def _decode(raw: bytes) -> str:
    if b"\0" in raw:
        raise BadLineError("found a NUL byte, expected text in UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at column {error.start + 1}"
        raise BadLineError(f"found {found}, expected text in UTF-8") from None


def _parse_json(text: str) -> Any:  # noqa: ANN401 - whatever JSON can hold
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadLineError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadLineError("found JSON nested too deeply, expected a flat object") from None
    except BadLineError:
        raise
    except ValueError as error:
        # Python refuses to read integers of more than 4,300 digits.
        raise BadLineError(f"found a number that is too long ({error})") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadLineError(f"field '{twice}': found it twice, expected each field once")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise BadLineError(f"found {name}, expected only finite numbers")


def _check_strings(value: Any, name: str) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Refuse what only escapes can smuggle in: half a surrogate pair, or a NUL character."""
    if isinstance(value, dict):
        for key, member in value.items():
            _check_strings(key, key)
            _check_strings(member, key)
    elif isinstance(value, list):
        for member in value:
            _check_strings(member, name)
    elif isinstance(value, str):
        if "\0" in value:
            raise BadLineError(f"field '{name}': found a NUL character, expected text")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadLineError(
                f"field '{name}': found half a surrogate pair, expected text"
            ) from None


def check_fields(value: Mapping[str, Any], fields: Sequence[Field]) -> None:
    """Check the types of the fields we use.

    Raises:
        BadLineError: naming the field, what was found and what was expected.
    """
    for field in fields:
        found = value.get(field.name)
        if found is None:
            if field.required:
                state = "null" if field.name in value else "nothing"
                raise BadLineError(_mismatch(field, state))
            continue
        if field.kind == "text":
            if not isinstance(found, str):
                raise BadLineError(_mismatch(field, describe(found)))
        elif field.kind == "texts":
            _check_texts(field, found)
        else:
            _check_passages(field, found)


def _check_texts(field: Field, found: Any) -> None:  # noqa: ANN401 - being checked
    if not isinstance(found, list):
        raise BadLineError(_mismatch(field, describe(found)))
    if not found:
        raise BadLineError(_mismatch(field, "an empty list"))
    for position, member in enumerate(found):
        if not isinstance(member, str):
            raise BadLineError(_mismatch(field, f"{describe(member)} at position {position}"))


PASSAGE_FIELDS = (
    Field("id", "text", required=False),
    Field("title", "text", required=False),
    Field("section", "text", required=False),
    Field("text", "text", required=True),
)
"""Fields of a passage that comes with an example; in a corpus, `id` is required too."""


def _check_passages(field: Field, found: Any) -> None:  # noqa: ANN401 - being checked
    if not isinstance(found, list):
        raise BadLineError(_mismatch(field, describe(found)))
    for position, passage in enumerate(found):
        where = f"field '{field.name}', passage {position}"
        if not isinstance(passage, dict):
            raise BadLineError(f"{where}: found {describe(passage)}, expected an object")
        try:
            check_fields(passage, PASSAGE_FIELDS)
        except BadLineError as error:
            raise BadLineError(f"{where}, {error}") from None


def _mismatch(field: Field, found: str) -> str:
    return f"field '{field.name}': found {found}, expected {EXPECTED[field.kind]}"


def describe(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A JSON value in words, short enough for an error message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {json.dumps(value)}"
    if isinstance(value, int | float):
        return f"the number {str(value)[:20]}"
    if isinstance(value, str):
        shown = value if len(value) <= 30 else f"{value[:27]}..."
        return f"the string {json.dumps(shown, ensure_ascii=False)}"
    return "a list" if isinstance(value, list) else "an object"
