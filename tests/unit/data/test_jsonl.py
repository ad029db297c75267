"""Malformed lines are one line of error; everything well-formed is read as it is."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.data.jsonl import (
    MAX_DEPTH,
    BadLineError,
    Field,
    describe,
    parse_line,
    read_lines,
    total_bytes,
)
from gazetteer.errors import DataError

FLAG = "--train_data"
FIELDS = (
    Field("question", "text", required=True),
    Field("answers", "texts", required=False),
    Field("passages", "passages", required=False),
)
GOOD = b'{"question": "who?", "answers": ["x"], "passages": [{"title": "t", "text": "p"}]}'
DEEPEST = b'{"question": "q", "extra": %s1%s}' % (
    b"[" * (MAX_DEPTH - 1),
    b"]" * (MAX_DEPTH - 1),
)


def _question(value: bytes) -> bytes:
    return b'{"question": %s}' % value


def _with(field: bytes, value: bytes) -> bytes:
    return b'{"question": "q", "%s": %s}' % (field, value)


# Name of the class: the line, and a part of the message that says what is wrong.
MALFORMED: dict[str, tuple[bytes, str]] = {
    # Not JSON.
    "truncated": (b'{"question": "wh', "not valid JSON"),
    "trailing comma": (b'{"question": "q",}', "not valid JSON"),
    "single quotes": (b"{'question': 'q'}", "not valid JSON"),
    "unquoted key": (b'{question: "q"}', "not valid JSON"),
    "two objects": (GOOD + b" " + GOOD, "not valid JSON: Extra data"),
    "two objects, old Mac line end": (GOOD + b"\r" + GOOD, "not valid JSON: Extra data"),
    "text after the object": (GOOD + b" and so on", "not valid JSON: Extra data"),
    "comment": (b"// " + GOOD, "not valid JSON"),
    "tab-separated": (b"q1\twho?\tx", "not valid JSON"),
    "no-break space alone": ("\u00a0".encode(), "not valid JSON"),
    "unknown escape": (_question(rb'"\x41"'), "not valid JSON"),
    "control character": (_question(b'"a\x01b"'), "not valid JSON"),
    "tab inside text": (_question(b'"a\tb"'), "not valid JSON"),
    "two byte-order marks": (b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD, "not valid JSON"),
    # No object.
    "array": (b'["who?", "x"]', "found a list, expected a JSON object"),
    "string": (b'"who?"', 'found the string "who?", expected a JSON object'),
    "number": (b"17", "found the number 17, expected a JSON object"),
    "null": (b"null", "found null, expected a JSON object"),
    "boolean": (b"true", "found the boolean true, expected a JSON object"),
    # Twice the same key.
    "duplicate key": (b'{"question": "a", "question": "b"}', "'question': found it twice"),
    "duplicate key, spaced": (b'{"question" : "a", "question"  :"b"}', "found it twice"),
    "duplicate key, escaped": (rb'{"question": "a", "\u0071uestion": "b"}', "found it twice"),
    "duplicate nested key": (_with(b"extra", b'[{"k": 1, "k": 1}]'), "'k': found it twice"),
    "duplicate key with a line end": (rb'{"a\nb": 1, "a\nb": 2}', r"'a\nb': found it twice"),
    # Numbers.
    "NaN": (_with(b"extra", b"NaN"), "found NaN, expected only finite numbers"),
    "Infinity": (_with(b"extra", b"Infinity"), "found Infinity, expected only finite"),
    "-Infinity": (_with(b"extra", b"-Infinity"), "found -Infinity, expected only finite"),
    "overflow": (_with(b"extra", b"1e999"), "found 1e999, expected only finite"),
    "5,000 digits": (_with(b"extra", b"7" * 5000), "found an integer of thousands of digits"),
    # Depth.
    "nested too deeply": (_with(b"extra", b"[" * 100_000), "nested too deeply"),
    "one level too many": (_with(b"extra", DEEPEST), "nested too deeply"),
    # Characters.
    "half a surrogate pair": (_question(rb'"\ud800"'), "'question': found half a surrogate"),
    "half a surrogate pair as key": (rb'{"question": "q", "\udc00": 1}', r"'\udc00': found half"),
    "escaped NUL": (_question(rb'"a\u0000b"'), "'question': found a NUL character"),
    "escaped NUL in a list": (_with(b"answers", rb'["\u0000"]'), "'answers': found a NUL"),
    "NUL byte": (_question(b'"a\0b"'), "found a NUL byte"),
    "Latin-1": (_question('"caf\u00e9"'.encode("latin-1")), "found byte 0xe9 at byte 18"),
    "cut UTF-8 sequence": (_question(b'"\xe2\x82"'), "found byte 0xe2"),
    "overlong UTF-8": (_question(b'"\xc0\xaf"'), "found byte 0xc0"),
    "surrogate in UTF-8": (_question(b'"\xed\xa0\x80"'), "found byte 0xed"),
    "UTF-16 without mark": (GOOD.decode().encode("utf-16-le"), "NUL byte"),
    # Types of the fields in use.
    "field missing": (b'{"query": "q"}', "'question': found nothing, expected a string"),
    "empty object": (b"{}", "'question': found nothing, expected a string"),
    "null text": (_question(b"null"), "'question': found null, expected a string"),
    "integer text": (_question(b"12"), "'question': found the number 12, expected a string"),
    "boolean text": (_question(b"false"), "'question': found the boolean false"),
    "list as text": (_question(b'["q"]'), "'question': found a list, expected a string"),
    "object as text": (_question(b"{}"), "'question': found an object, expected a string"),
    "text as list": (_with(b"answers", b'"x"'), "'answers': found the string \"x\", expected"),
    "empty list": (_with(b"answers", b"[]"), "'answers': found an empty list"),
    "integer in list": (_with(b"answers", b'["x", 3]'), "'answers': found the number 3"),
    "null in list": (_with(b"answers", b"[null]"), "'answers': found null at position 0"),
    "passages as object": (_with(b"passages", b"{}"), "'passages': found an object"),
    "passage as text": (_with(b"passages", b'["p"]'), "'passages', passage 0: found the string"),
    "passage without text": (_with(b"passages", b'[{"title": "t"}]'), "passage 0, field 'text'"),
    "title as integer": (
        _with(b"passages", b'[{"text": "p"}, {"text": "p", "title": 1}]'),
        "field 'passages', passage 1, field 'title': found the number 1",
    ),
    "text with a line separator": (
        _with(b"answers", '"a\u2028b\u0085c"'.encode()),
        r"""'answers': found the string "a\u2028b\x85c", expected a list""",
    ),
}  # fmt: skip
assert len(MALFORMED) >= 28

# Formats that only the beginning of a file gives away.
OTHER_FORMATS: dict[str, tuple[bytes, str]] = {
    "gzip": (gzip.compress(GOOD).replace(b"\n", b""), "found gzip, expected plain jsonl in UTF-8"),
    "zip": (b"PK\x03\x04....", "found zip"),
    "zstd": (b"\x28\xb5\x2f\xfd....", "found zstd"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "found UTF-16 text"),
    "parquet": (b"PAR1....", "found parquet"),
}


def _file(folder: Path, *lines: bytes) -> Path:
    path = folder / "lines.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def _read(path: Path, **settings: Any) -> list[dict[str, Any]]:
    return [line.value for line in read_lines(path, FIELDS, flag=FLAG, **settings)]


@pytest.mark.parametrize("number", [1, 2, 3], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_line_is_one_line_naming_file_line_field_and_flag(
    tmp_path: Path, name: str, number: int
) -> None:
    bad, expected = MALFORMED[name]
    lines = [GOOD, GOOD, GOOD]
    lines[number - 1] = bad
    path = _file(tmp_path, *lines)

    with pytest.raises(DataError) as caught:
        _read(path)

    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    assert message.startswith(f"{path}:{number}: ")
    assert message.endswith(f" ({FLAG})")
    assert expected in message
    assert len(message) < len(str(path)) + 200


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_recognised_by_name(tmp_path: Path, name: str) -> None:
    content, expected = OTHER_FORMATS[name]
    with pytest.raises(DataError, match=expected):
        _read(_file(tmp_path, content))


@pytest.mark.parametrize("position", [0, 1, 2], ids=["first", "middle", "last"])
def test_malformed_lines_are_left_out_and_told_when_skipping(tmp_path: Path, position: int) -> None:
    for bad, expected in MALFORMED.values():
        lines = [GOOD, GOOD, GOOD]
        lines[position] = bad
        path = _file(tmp_path, *lines)
        skipped: list[str] = []

        read = read_lines(path, FIELDS, flag=FLAG, on_bad_line="skip", on_skip=skipped.append)
        kept = list(read)

        assert [line.number - 1 for line in kept] == [p for p in range(3) if p != position]
        assert [line.value for line in kept] == [json.loads(GOOD)] * 2
        assert len(skipped) == 1
        assert skipped[0].startswith(f"{path}:{position + 1}: ")
        assert expected in skipped[0]


@pytest.mark.parametrize(
    ("content", "count"),
    [
        pytest.param(b"", 0, id="empty file"),
        pytest.param(b"\n\n" + GOOD + b"\n \t\r\n\n" + GOOD + b"\n\n", 2, id="blank lines"),
        pytest.param(b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD, 2, id="byte-order mark"),
        pytest.param(b"\xef\xbb\xbf\n" + GOOD, 1, id="byte-order mark, blank line"),
        pytest.param(GOOD + b"\r\n" + GOOD + b"\r\n", 2, id="CRLF"),
        pytest.param(GOOD + b"\n" + GOOD, 2, id="no line end at the end"),
        pytest.param(b"  " + GOOD + b"  \n", 1, id="white space around"),
        pytest.param(DEEPEST, 1, id="as deep as may be"),
        pytest.param(_with(b"answers", b"null"), 1, id="optional field is null"),
        pytest.param(_with(b"passages", b"[]"), 1, id="no passages"),
        pytest.param(_with(b"passages", b'[{"text": "p", "id": null}]'), 1, id="null in passage"),
        pytest.param(_with(b"extra", b'{"a": [1, 2.5, true, {"b": null}]}'), 1, id="free fields"),
    ],
)
def test_well_formed_files_are_accepted(tmp_path: Path, content: bytes, count: int) -> None:
    assert len(_read(_file(tmp_path, content))) == count


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a\u2028b\u2029c\u0085d\u000be\u000cf\u001cg", id="line separators"),
        pytest.param("\U0001f600 caf\u00e9 \u65e5\u672c", id="beyond ASCII"),
        pytest.param('a": b": c":', id="what looks like keys"),
        pytest.param("x" * 3_000_000, id="3 MB"),
        pytest.param("", id="empty"),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as it is"])
def test_text_is_read_as_written(tmp_path: Path, text: str, ascii_only: bool) -> None:
    # Control characters must be escaped in JSON; separators beyond ASCII need not be.
    line = json.dumps({"question": text}, ensure_ascii=ascii_only).encode()
    path = _file(tmp_path, GOOD, line, GOOD)
    assert _read(path)[1] == {"question": text}
    assert len(_read(path)) == 3


def test_lines_carry_number_and_offset(tmp_path: Path) -> None:
    path = _file(tmp_path, b"\xef\xbb\xbf" + GOOD, b"", b"bad", GOOD + b"\r", GOOD)
    lines = list(read_lines(path, FIELDS, flag=FLAG, on_bad_line="skip"))
    assert [line.number for line in lines] == [1, 4, 5]
    content = path.read_bytes()
    for line in lines:
        raw = content[line.offset :].split(b"\n")[0]
        assert parse_line(raw, is_first=line.offset == 0) == line.value


def test_sizes_of_all_lines_add_up_to_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, GOOD, b"", b"bad", GOOD)
    sizes: list[int] = []
    _read(path, on_bad_line="skip", on_bytes=sizes.append)
    assert sum(sizes) == path.stat().st_size == total_bytes([path], FLAG)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_unreadable_file_is_an_error_naming_file_and_flag(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"^\S+: .* \(--train_data\)$"):
        _read(tmp_path / name)


def test_missing_file_has_no_size(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: No such file or directory \(--train_data\)"):
        total_bytes([tmp_path / "gone.jsonl"], FLAG)


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "null"), (True, "the boolean true"), (1.5, "the number 1.5"), ([], "a list")],
)
def test_values_are_described_in_words(value: Any, words: str) -> None:
    assert describe(value) == words


def test_long_text_is_described_shortly() -> None:
    assert describe("x" * 10_000) == f'the string "{"x" * 27}..."'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "b", 'c":', ":", ""]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["k", 'q":', "é"]), json_values), st.booleans())
def test_any_object_comes_back_as_it_was_written(value: dict[str, Any], ascii_only: bool) -> None:
    assert parse_line(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


class Pairs(list[tuple[str, Any]]):
    """An object as written, keys possibly repeated."""


pairs = st.recursive(
    st.sampled_from(["x", 'y":', "a:b", "\\", 7, None]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(st.sampled_from(["a", "b", 'c":']), inner), max_size=3).map(Pairs)
    ),
    max_leaves=6,
)


def _written(value: Any, colon: str) -> str:
    if isinstance(value, Pairs):
        members = (f"{json.dumps(k)}{colon}{_written(v, colon)}" for k, v in value)
        return f"{{{', '.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(_written(member, colon) for member in value)}]"
    return json.dumps(value)


def _objects(value: Any) -> Iterator[Pairs]:
    if isinstance(value, Pairs):
        yield value
        for _, member in value:
            yield from _objects(member)
    elif isinstance(value, list):
        for member in value:
            yield from _objects(member)


@given(pairs, st.sampled_from([":", ": ", " :", "\t \r:"]))
def test_repeated_keys_are_found_wherever_they_are(value: Any, colon: str) -> None:
    raw = f'{{"top"{colon}{_written(value, colon)}}}'.encode()
    is_repeated = any(len(dict(found)) < len(found) for found in _objects(value))
    if is_repeated:
        with pytest.raises(BadLineError, match="found it twice"):
            parse_line(raw)
    else:
        assert parse_line(raw) == json.loads(raw)
