"""Passages are the same whatever their file's format; what is wrong is one line that says where."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gazetteer.data import passage_files
from gazetteer.data.corpus import CorpusSize, cached_passage_store, estimate_passages
from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError
from tests.support.tiny_data import passages

COLUMNS = ("id", "text", "title", "section")


def _rows(count: int) -> list[dict[str, str]]:
    """Passages with a section each: tab-separated text says nothing where there is none."""
    return [{"section": f"s{n}", **row} for n, row in enumerate(passages(count))]


def _jsonl(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _tsv(rows: list[dict[str, str]]) -> bytes:
    lines = [COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines).encode()


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def _parquet(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue().to_pybytes()


FORMATS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "p.jsonl": _jsonl,
    "p.jsonl.gz": lambda rows: gzip.compress(_jsonl(rows)),
    "p.jsonl.zst": lambda rows: _zstd(_jsonl(rows)),
    "two members.jsonl.gz": lambda rows: (
        gzip.compress(_jsonl(rows[:5])) + gzip.compress(_jsonl(rows[5:]))
    ),
    "p.tsv": _tsv,
    "P.TSV.GZ": lambda rows: gzip.compress(_tsv(rows)),
    "p.tsv.zst": lambda rows: _zstd(_tsv(rows)),
    "p.parquet": _parquet,
}


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def _open(folder: Path, name: str, content: bytes, **flags: Any) -> PassageStore:
    return cached_passage_store([_file(folder, name, content)], folder / "cache", **flags)


def _records(store: PassageStore) -> list[dict[str, Any]]:
    return store.records(range(store.count))


def _error(folder: Path, name: str, content: bytes, **flags: Any) -> str:
    """The message, found to be one line that leaves nothing behind."""
    with pytest.raises(DataError) as caught:
        _open(folder, name, content, **flags)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.isprintable()
    assert message.startswith(str(folder / name)) and message.endswith(" (--passages)")
    left = [path for path in (folder / "cache").rglob("*") if path.name != "passages"]
    assert left == []
    return message.removeprefix(str(folder / name)).removesuffix(" (--passages)")


@pytest.mark.parametrize("block_bytes", [1, 64, 2**22])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("limit", [-1, 1, 7, 20, 100])
def test_every_format_gives_the_same_passages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_bytes: int, limit: int
) -> None:
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(passage_files, "BLOCK_ROWS", min(block_bytes, 5))
    rows = _rows(20)
    expected = cached_passage_store(
        [_file(tmp_path, "peer.jsonl", _jsonl(rows))], tmp_path / "peer", max_passages=limit
    )
    store = _open(tmp_path, name, FORMATS[name](rows), max_passages=limit)
    assert store.count == (20 if limit < 0 else min(limit, 20))
    assert store.fingerprint == expected.fingerprint
    assert _records(store) == _records(expected)


def test_formats_may_be_mixed(tmp_path: Path) -> None:
    rows = _rows(8 * 3)
    paths = [
        _file(tmp_path, name, write(rows[3 * n : 3 * n + 3]))
        for n, (name, write) in enumerate(
            (name, write) for name, write in FORMATS.items() if "two" not in name
        )
    ]
    store = cached_passage_store(paths, tmp_path / "cache", max_passages=19)
    assert store.ids(range(store.count)) == [f"p{n}" for n in range(19)]


# Compression.


@pytest.mark.parametrize("kept", [0, 5, 100, 0.5, -9, -1])
@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.jsonl.zst", "P.TSV.GZ"])
@pytest.mark.parametrize("on_bad_line", ["error", "skip"])
def test_cut_file_is_one_error(tmp_path: Path, name: str, kept: float, on_bad_line: str) -> None:
    content = FORMATS[name](_rows(200))
    size = int(len(content) * kept) if isinstance(kept, float) else kept
    codec = "zstd" if name.endswith("zst") else "gzip"
    message = _error(tmp_path, name, content[:size], on_bad_line=on_bad_line)
    if kept == 0:
        assert message == f":1: found nothing, expected {codec}"
    else:
        assert f"not a whole {codec} file (Truncated compressed stream)" in message


def test_changed_byte_is_one_error(tmp_path: Path) -> None:
    """Of gzip, which always carries a checksum."""
    content = bytearray(gzip.compress(_jsonl(_rows(50))))
    content[len(content) // 2] ^= 4
    assert "not a whole gzip file" in _error(tmp_path, "p.jsonl.gz", bytes(content))


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.jsonl.zst"])
def test_other_content_is_one_error(tmp_path: Path, name: str) -> None:
    for bad in (_jsonl(_rows(3)), FORMATS[name](_rows(3)) + b"and more"):
        assert "not a whole" in _error(tmp_path, name, bad)


def test_compressed_file_under_a_plain_name_is_one_error(tmp_path: Path) -> None:
    assert ":1: found gzip" in _error(tmp_path, "p.jsonl", gzip.compress(_jsonl(_rows(3))))
    assert ":1: found gzip" in _error(tmp_path, "p.tsv", gzip.compress(_tsv(_rows(3))))
    assert ":1: found parquet" in _error(tmp_path, "p.jsonl", _parquet(_rows(3)))


def test_bad_line_before_the_cut_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", 64)
    lines = _jsonl(_rows(400)).splitlines(keepends=True)
    lines[2] = b"oops\n"
    content = gzip.compress(b"".join(lines))
    assert ":3: not valid JSON" in _error(tmp_path, "p.jsonl.gz", content[:-100])


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz", "p.tsv", "p.jsonl.zst"])
def test_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(passage_files, "MAX_LINE_BYTES", 2**20)
    content = b"a\tb\tc\n" if "tsv" in name else b'{"id": "p", "text": "x"}\n'
    content = content * 5 + bytes(3 * 2**20)
    write = gzip.compress if name.endswith("gz") else _zstd if name.endswith("zst") else bytes
    assert _error(tmp_path, name, write(content)) == ":6: found a line longer than 1 MiB"


# Tab-separated text.


def test_without_header_columns_are_those_of_dpr(tmp_path: Path) -> None:
    store = _open(tmp_path, "p.tsv", b"1\tsome text\tA title\n2\tmore\t\n")
    assert _records(store) == [
        {"id": "1", "title": "A title", "text": "some text"},
        {"id": "2", "title": "", "text": "more"},
    ]


def test_two_columns_are_id_and_text(tmp_path: Path) -> None:
    assert _records(_open(tmp_path, "p.tsv", b"7\tsome text"))[0]["text"] == "some text"


def test_header_may_be_in_any_order_and_name_other_columns(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbftitle\turl\tid\ttext\r\n\r\nT\tu\t1\tx\r\n\t\t2\ty\r\n"
    assert _records(_open(tmp_path, "p.tsv", content)) == [
        {"id": "1", "title": "T", "text": "x", "url": "u"},
        {"id": "2", "title": "", "text": "y", "url": ""},
    ]


def test_quotes_and_missing_values_are_text_like_any_other(tmp_path: Path) -> None:
    texts = ['"', 'say "x"', '"begun', "NA", "NULL", "nan", "\\t", "'", '"whole"', '""', "#", " s "]
    content = "".join(f"{n}\t{text}\tNA\n" for n, text in enumerate(texts))
    store = _open(tmp_path, "p.tsv", content.encode())
    assert [(r["text"], r["title"]) for r in _records(store)] == [(text, "NA") for text in texts]


def test_texts_all_in_quotes_lose_them_as_in_dpr(tmp_path: Path) -> None:
    content = (
        "id\ttext\ttitle\n"
        '1\t"Aaron ( or ; ""Aharon"") is"\tAaron\n'
        '2\t"and so on"\t"""Weird Al"" Yankovic"\n'
        '3\t"He said ""no"""\t"A" and "B"\n'
    )
    store = _open(tmp_path, "psgs_w100.tsv", content.encode())
    assert [(r["text"], r["title"]) for r in _records(store)] == [
        ('Aaron ( or ; "Aharon") is', "Aaron"),
        ("and so on", '"Weird Al" Yankovic'),
        ('He said "no"', '"A" and "B"'),
    ]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\t\n\r\0", exclude_categories=["Cs"]), min_size=1)
    ),
    st.sampled_from([3, 2**20]),
)
def test_any_text_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], block_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("tsv")
    # The first is not in quotes, so that none of them counts as quoted.
    texts = ["plain", *texts]
    content = "".join(f"{n}\t{text}\t\n" for n, text in enumerate(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passage_files, "BLOCK_BYTES", block_bytes)
        patch.setattr(passage_files, "FIRST_LINES", 1)
        store = _open(folder, "p.tsv", content.encode())
    assert [record["text"] for record in _records(store)] == texts


def test_ids_of_beir_and_tevatron_are_ids(tmp_path: Path) -> None:
    rows = [{"_id": "d1", "title": "t", "text": "x", "metadata": {"url": "u"}}]
    (record,) = _records(_open(tmp_path, "beir.jsonl", _jsonl(rows)))
    assert record == {"id": "d1", "title": "t", "text": "x", "metadata": {"url": "u"}}
    (record,) = _records(_open(tmp_path, "beir.parquet", _parquet([{"_id": "d1", "text": ""}])))
    assert record == {"id": "d1", "title": "", "text": ""}
    (record,) = _records(_open(tmp_path, "t.jsonl", _jsonl([{"docid": "7", "text": "x"}])))
    assert record["id"] == "7"
    (record,) = _records(_open(tmp_path, "n.jsonl", _jsonl([{"_id": 7, "text": "x"}])))
    assert record["id"] == "7"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("d1\tthe text", {"id": "d1", "title": "", "text": "the text"}),
        ("d1\tthe title\tthe longer text", {"title": "the title", "text": "the longer text"}),
        ("d1\tthe longer text\tthe title", {"title": "the title", "text": "the longer text"}),
        ('d1\t\ta "quote, NA', {"title": "", "text": 'a "quote, NA'}),
    ],
)
def test_columns_without_a_header_are_known_by_number_and_length(
    tmp_path: Path, line: str, expected: dict[str, str]
) -> None:
    (record,) = _records(_open(tmp_path, "collection.tsv", f"{line}\r\n".encode()))
    assert expected.items() <= record.items()


@pytest.mark.parametrize("header", [b"", b"id\ttext\ttitle\n"])
def test_an_empty_text_is_a_passage_like_any_other(tmp_path: Path, header: bytes) -> None:
    records = _records(_open(tmp_path, "c.tsv", header + b"1\ta text\tb\n2\t\tb\n3\t\t\n"))
    assert [each["text"] for each in records] == ["a text", "", ""]


BAD_TSV = {
    "one column": (b"1 text title\n", ":1: found 1 column, split at tabs, and no header"),
    "four columns": (b"1\ta\tb\tc\n", ":1: found 4 columns, split at tabs, and no header"),
    "header without text": (b"id\ttitle\turl\tx\n", ":1: found 4 columns"),
    "name twice": (b"id\ttext\ttext\n1\ta\tb\n", ":1: found a header with a name twice"),
    "column missing": (
        b"id\ttext\ttitle\n1\ta\tb\n2\ta\n",
        ":3: found 2 columns, expected 3 (id, text, title), split at tabs",
    ),
    "column too many": (b"1\ta\tb\n\n2\ta\tb\tc\n", ":3: found 4 columns, expected 3"),
    "id missing": (b"1\ta\tb\n\ta\tb\n", ":2: field 'id': found nothing, expected a string"),
    "only tabs": (b"1\ta\tb\n\t\t\n", ":2: field 'id': found nothing"),
    "Latin-1": (b"1\ta\tb\n2\tcaf\xe9\tb\n", ":2: found byte 0xe9 at byte 6 of the line"),
    "NUL": (b"1\ta\tb\n2\ta\0\tb\n", ":2: found a NUL character"),
    "UTF-16": ("1\ta\tb\n".encode("utf-16"), ":1: found UTF-16 text"),
    "first line of another width": (
        b"1\ta\n2\ta\tb\n3\ta\tb\n",
        ":1: found 2 columns, expected 3 (id, text, title), split at tabs",
    ),
    "first line not UTF-8": (b"\xe9\tx\ty\n1\ta\tb\n", ":1: found byte 0xe9 at byte 1"),
    "nothing but other bytes": (b"\xe9\tx\ty\n", ":1: found byte 0xe9 at byte 1 of the line"),
    "something before the header": (b"# x\nid\ttext\n1\ta\n", ":1: found 1 column, expected 2"),
    "old Mac line ends": (
        b"1\ta\tb\r2\ta\tb\r",
        ":1: found lines that end with a carriage return alone, expected line feeds",
    ),
    "old Mac line ends, header": (b"id\ttext\r1\ta\r\n", ":1: found lines that end with a c"),
}


@pytest.mark.parametrize("name", BAD_TSV)
def test_bad_tab_separated_line_is_one_error(tmp_path: Path, name: str) -> None:
    content, expected = BAD_TSV[name]
    assert _error(tmp_path, "p.tsv", content).startswith(expected)


def test_bad_tab_separated_lines_are_left_out_when_skipping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = _open(tmp_path, "p.tsv", b"1\ta\tb\n2\n3\tc\td\n\tx\ty\n", on_bad_line="skip")
    assert store.ids(range(store.count)) == ["1", "3"]
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"bad lines skipped: 2, the first: {tmp_path / 'p.tsv'}:2: found 1 column, expected 3"
    )


BAD_BEGINNINGS = {
    "too few columns": b"1\ta\n2\tc\td\n3\te\tf\n",
    "too many columns": b"1\ta\tb\tc\n2\tc\td\n3\te\tf\n",
    "one column": b"passages of somebody\n2\tc\td\n3\te\tf\n",
    "no UTF-8": b"1\t\xe9\tb\n2\tc\td\n3\te\tf\n",
    "NUL": b"1\ta\0\tb\n2\tc\td\n3\te\tf\n",
    "no id": b"\ta\tb\n2\tc\td\n3\te\tf\n",
    "above a header": b"\xef\xbb\xbf# 2 passages\n\ntitle\ttext\tid\nd\tc\t2\r\nf\te\t3\n",
}


@pytest.mark.parametrize("name", BAD_BEGINNINGS)
def test_a_bad_first_line_is_left_out_when_skipping(tmp_path: Path, name: str) -> None:
    content = BAD_BEGINNINGS[name]
    assert _error(tmp_path, "p.tsv", content).startswith(":1: ")
    store = _open(tmp_path, "p.tsv", content, on_bad_line="skip")
    assert _records(store) == [
        {"id": "2", "title": "d", "text": "c"},
        {"id": "3", "title": "f", "text": "e"},
    ]


def test_blank_lines_may_come_before_a_header(tmp_path: Path) -> None:
    store = _open(tmp_path, "p.tsv", b"\n\r\ntext\tid\na\t1\n")
    assert _records(store) == [{"id": "1", "title": "", "text": "a"}]


# Parquet.


def _table(**columns: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


IDS, TEXTS = pa.array(["1", "2"]), pa.array(["x", "y"])


def test_other_columns_of_parquet_are_kept_if_they_are_plain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = _table(
        emb=pa.array([[0.5], [1.5]]),
        text=TEXTS.dictionary_encode(),
        id=IDS.cast(pa.large_string()),
        views=pa.array([3, None]),
        score=pa.array([0.5, 1.5]),
        good=pa.array([True, False]),
        when=pa.array([1, 2], pa.timestamp("s")),
    )
    assert _records(_open(tmp_path, "p.parquet", content)) == [
        {"id": "1", "title": "", "text": "x", "views": 3, "score": 0.5, "good": True},
        {"id": "2", "title": "", "text": "y", "views": None, "score": 1.5, "good": False},
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'p.parquet'}: columns left out, since they are no texts, numbers or "
        "booleans: emb, when (--passages)"
    ]


BAD_PARQUET = {
    "integer id": (
        _table(id=pa.array([1, 2]), text=TEXTS),
        ": field 'id': found a column of int64, expected strings",
    ),
    "list of texts": (
        _table(id=IDS, text=pa.array([["x"], []])),
        ": field 'text': found a column of list<element: string>, expected strings",
    ),
    "no text": (_table(id=IDS), ": field 'text': found no such column"),
    "null text": (
        _table(id=IDS, text=pa.array(["x", None])),
        ": row 2: field 'text': found null, expected a string",
    ),
    "null ids": (_table(id=pa.nulls(2), text=TEXTS), ": row 1: field 'id': found null"),
    "NaN": (
        _table(id=IDS, text=TEXTS, n=pa.array([1.0, float("nan")])),
        ": row 2: field 'n': found nan, expected only finite numbers",
    ),
    "NUL": (_table(id=IDS, text=pa.array(["x", "a\0b"])), ": row 2: field 'text': found a NUL"),
    "other bytes": (
        _table(id=IDS, text=pa.array([b"x", b"\xff"]).view(pa.string())),
        ": row 2: field 'text': found other bytes, expected text in UTF-8",
    ),
    "jsonl": (_jsonl(_rows(5)), ": row 1: not a readable parquet file"),
    "empty file": (b"", ": row 1: not a readable parquet file"),
    "cut": (_parquet(_rows(50))[:-20], ": row 1: not a readable parquet file"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet_is_one_error(tmp_path: Path, name: str) -> None:
    content, expected = BAD_PARQUET[name]
    assert _error(tmp_path, "p.parquet", content).startswith(expected)


def test_parquet_with_zeros_inside_is_one_error(tmp_path: Path) -> None:
    content = bytearray(_parquet(_rows(50)))
    content[100:400] = bytes(300)
    assert "not a readable parquet file" in _error(tmp_path, "p.parquet", bytes(content))


def test_packed_parquet_is_told_apart(tmp_path: Path) -> None:
    content = gzip.compress(_parquet(_rows(3)))
    assert "parquet compresses by itself" in _error(tmp_path, "p.parquet.gz", content)


def test_bad_rows_of_parquet_are_left_out_when_skipping(tmp_path: Path) -> None:
    content = _table(id=pa.array(["1", None, "3"]), text=pa.array(["x", "y", "z"]))
    store = _open(tmp_path, "p.parquet", content, on_bad_line="skip")
    assert store.ids(range(store.count)) == ["1", "3"]


# Sizes.


@pytest.mark.parametrize(
    ("name", "block_bytes"),
    [*((name, 2**22) for name in FORMATS), ("p.jsonl", 300), ("p.tsv", 300), ("p.parquet", 300)],
)
def test_size_is_exact_for_few_passages_and_near_for_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, block_bytes: int
) -> None:
    monkeypatch.setattr(passage_files, "BLOCK_BYTES", block_bytes)
    path = _file(tmp_path, name, FORMATS[name](_rows(400)))
    assert estimate_passages(path, "error", 400) == CorpusSize(400, is_exact=True)
    estimate = estimate_passages(path, "error", 100)
    assert estimate.is_exact == name.endswith("parquet")
    assert 250 <= estimate.count <= 500


def test_size_looks_at_the_first_lines(tmp_path: Path) -> None:
    path = _file(tmp_path, "p.jsonl", _jsonl(_rows(3)) + b"oops\n")
    with pytest.raises(DataError, match=r"p\.jsonl:4: not valid JSON"):
        estimate_passages(path, "error", 10)
    assert not estimate_passages(path, "error", 2).is_exact
