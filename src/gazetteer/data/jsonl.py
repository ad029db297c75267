"""Strict reading of jsonl: one JSON object per line, UTF-8, and the types we rely on.

What is wrong is said in one line that names file, line, field, what was found, what was expected,
and the flag that named the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gazetteer.errors import DataError

OnBadLine = Literal["error", "skip"]
Kind = Literal["text", "texts", "passages", "id", "options", "outputs", "scores"]

EXPECTED: dict[Kind, str] = {
    "text": "a string",
    "texts": "a list of strings, not empty",
    "passages": "a list of objects with string fields 'title' and 'text'",
    "id": "a string or a whole number",
    "options": "an object of strings",
    "outputs": "a list of objects with a string field 'answer'",
    "scores": "a list of numbers, one for each passage",
}
MAX_DEPTH = 100
"""Levels of nesting: far beyond any data, far below where Python's own recursion ends."""
TOO_DEEP = f"found JSON nested too deeply, expected at most {MAX_DEPTH} levels"
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
        kind: "text" (a string), "texts" (a list of strings, not empty), "passages" (a list of
            objects with text in `text` and, where present, `title`), "id" (a string or an int),
            "options" (an object of strings), "outputs" (KILT's list of objects, of which one at
            least has text in `answer` where they are required) or "scores" (a list of numbers, as
            many as there are `passages`).
        required: must be there; otherwise it may be missing or null.
        unless: another field that may stand in for a required one.
        allowed: the only values of a text, or all keys of options; empty for any.
        flag: the one that `allowed` depends on, if any; named in errors.
    """

    name: str
    kind: Kind
    required: bool
    unless: str | None = None
    allowed: tuple[str, ...] = ()
    flag: str | None = None


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

    Lines end with a line feed alone (text may hold other line separators). Blank lines are passed
    over; a byte-order mark at the start and carriage returns at line ends are tolerated.

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


def total_bytes(paths: Sequence[Path], flag: str) -> int:
    """Size of these files together.

    Raises:
        DataError: one of them is not there, or is no file; `flag` is named.
    """
    size = 0
    for path in paths:
        try:
            size += path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: {error.strerror} ({flag})") from None
    return size


def parse_line(raw: bytes, *, is_first: bool = False) -> dict[str, Any] | None:
    """One line of bytes as an object; None for a blank line.

    Raises:
        BadLineError: it is not one JSON object in UTF-8 with unique keys, finite numbers and at
            most `MAX_DEPTH` levels.
    """
    if is_first:
        refuse_other_formats(raw, "jsonl")
        raw = raw.removeprefix(UTF8_MARK)
    if not raw or raw.isspace():
        return None
    value = _parse_json(raw, _DECODER)
    if not isinstance(value, dict):
        raise BadLineError(f"found {describe(value)}, expected a JSON object")
    _refuse_repeated_keys(raw, value)
    if b"\\" in raw and b"\\u" in raw:
        _check_strings(value, "")
    return value


def refuse_other_formats(raw: bytes, expected: str) -> None:
    """Raise BadLineError if a file that begins like this is no text but a format we know."""
    for mark, name in OTHER_FORMATS.items():
        if raw.startswith(mark):
            raise BadLineError(f"found {name}, expected plain {expected} in UTF-8")


def decode_line(raw: bytes) -> str:
    """A line as text. Raises BadLineError where it is not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        raise BadLineError(f"found {found}, expected text in UTF-8") from None


def _parse_json(raw: bytes, decoder: json.JSONDecoder) -> Any:  # noqa: ANN401 - any JSON
    try:
        return decoder.decode(decode_line(raw))
    except BadLineError:
        raise
    except json.JSONDecodeError as error:
        if b"\0" in raw:
            raise BadLineError("found a NUL byte, expected text in UTF-8") from None
        raise BadLineError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BadLineError(TOO_DEEP) from None
    except ValueError:
        # Python refuses to read integers of more than 4,300 digits.
        raise BadLineError("found an integer of thousands of digits, expected a number") from None


def _refuse_repeated_keys(raw: bytes, value: dict[str, Any]) -> None:
    """Raise where a key occurs twice in an object: the parser keeps the last and says nothing.

    Every key has a colon after its closing quote, so where there are no more of these than keys
    that were kept, none was lost. Only the few other lines are parsed again, with care.
    """
    keys = _count_keys(value, 1)
    if raw.count(b":") != keys and len(_KEY_END.findall(raw)) != keys:
        _parse_json(raw, _CAREFUL_DECODER)


def _count_keys(value: dict[str, Any] | list[Any], depth: int) -> int:
    """Keys of all objects in here."""
    if depth > MAX_DEPTH:
        raise BadLineError(TOO_DEEP)
    is_object = isinstance(value, dict)
    count = len(value) if is_object else 0
    for member in value.values() if is_object else value:
        if isinstance(member, _CONTAINERS):
            count += _count_keys(member, depth + 1)
    return count


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadLineError(f"field '{_shown(twice)}': found it twice, expected each field once")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise BadLineError(f"found {text[:20]}, expected only finite numbers")
    return number


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)
_CAREFUL_DECODER = json.JSONDecoder(
    parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unique
)
# Named, because `dict | list` would be built anew for every member.
_CONTAINERS = (dict, list)
_KEY_END = re.compile(rb'"[ \t\r\n]*:')


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
            raise BadLineError(f"field '{_shown(name)}': found a NUL character, expected text")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadLineError(
                f"field '{_shown(name)}': found half a surrogate pair, expected text"
            ) from None


def check_fields(value: Mapping[str, Any], fields: Sequence[Field]) -> None:
    """Check the types of the fields we use.

    Raises:
        BadLineError: naming the field, what was found and what was expected.
    """
    for field in fields:
        found = value.get(field.name)
        if found is None:
            if field.required and (field.unless is None or value.get(field.unless) is None):
                state = "null" if field.name in value else "nothing"
                otherwise = "" if field.unless is None else f", or field '{field.unless}'"
                raise BadLineError(_mismatch(field, state) + otherwise)
            continue
        if field.kind == "text":
            if not isinstance(found, str):
                raise BadLineError(_mismatch(field, describe(found)))
            if field.allowed and found not in field.allowed:
                raise BadLineError(_mismatch(field, describe(found), " or ".join(field.allowed)))
        elif field.kind == "options":
            _check_options(field, found)
        elif field.kind == "id":
            if not isinstance(found, str | int) or isinstance(found, bool):
                raise BadLineError(_mismatch(field, describe(found)))
        elif field.kind == "texts":
            _check_texts(field, found)
        elif field.kind == "outputs":
            _check_outputs(field, found)
        elif field.kind == "scores":
            _check_scores(field, found, value.get("passages"))
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


def _check_options(field: Field, found: Any) -> None:  # noqa: ANN401 - being checked
    if not isinstance(found, dict):
        raise BadLineError(_mismatch(field, describe(found)))
    if field.allowed and sorted(found) != sorted(field.allowed):
        keys = ", ".join(map(_shown, list(found)[:30])) or "none"
        raise BadLineError(_mismatch(field, f"options {keys}", ", ".join(field.allowed)))
    for key, text in found.items():
        if not isinstance(text, str):
            raise BadLineError(_mismatch(field, f"{describe(text)} as option {_shown(key)}"))


ANSWER = Field("answer", "text", required=False)


def _check_outputs(field: Field, found: Any) -> None:  # noqa: ANN401 - being checked
    if not isinstance(found, list):
        raise BadLineError(_mismatch(field, describe(found)))
    for position, output in enumerate(found):
        where = f"field '{field.name}', output {position}"
        if not isinstance(output, dict):
            raise BadLineError(f"{where}: found {describe(output)}, expected an object")
        try:
            check_fields(output, (ANSWER,))
        except BadLineError as error:
            raise BadLineError(f"{where}, {error}") from None
    if field.required and not any((output.get("answer") or "").strip() for output in found):
        raise BadLineError(_mismatch(field, "no answer"))


def _check_scores(field: Field, found: Any, passages: Any) -> None:  # noqa: ANN401
    if not isinstance(found, list):
        raise BadLineError(_mismatch(field, describe(found)))
    for position, score in enumerate(found):
        if not isinstance(score, int | float) or isinstance(score, bool):
            raise BadLineError(_mismatch(field, f"{describe(score)} at position {position}"))
    if isinstance(passages, list) and len(found) != len(passages):
        raise BadLineError(_mismatch(field, f"{len(found)} of them for {len(passages)} passages"))


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


def _mismatch(field: Field, found: str, expected: str | None = None) -> str:
    governs = f", see --{field.flag}" if expected and field.flag else ""
    expected = expected or EXPECTED[field.kind]
    return f"field '{field.name}': found {found}, expected {expected}{governs}"


def describe(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """A JSON value in words, short enough for an error message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {json.dumps(value)}"
    if isinstance(value, int | float):
        return f"the number {str(value)[:20]}"
    if isinstance(value, str):
        return f'the string "{_shown(value)}"'
    return "a list" if isinstance(value, list) else "an object"


def _shown(text: str) -> str:
    """Text for an error message: short, and without anything that would break its line."""
    short = text if len(text) <= 30 else f"{text[:27]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
