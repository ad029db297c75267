"""Queries: lines, objects with answers, tab-separated; and every mistake in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.compress.queries import Question, read_queries_file, synthetic_queries
from gazetteer.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("q.txt", b"\xef\xbb\xbfone\r\n\n  \n two\twords\xc3\xa9 \n", ["one", "two words\u00e9"]),
        ("q", "a\u2028b\nc".encode(), ["a b", "c"]),
        ("queries_chunk_aa.json.txt", b"{}", ["{}"]),
        ("q.tsv", b"7\twhat\n8\twhy not\n", ["what", "why not"]),
        ("q.jsonl", b'{"question": "q1", "answers": ["a"]}\n{"text": "q2"}\n', ["q1", "q2"]),
        ("q.json", b'[{"query": "q1", "answer": "a"}]', ["q1"]),
    ],
)
def test_every_kind_of_file(tmp_path: Path, name: str, content: bytes, expected: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert [each.text for each in read_queries_file(path, flag="--queries_file")] == expected


def test_gold_answers_stay_with_their_question(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "q", "answers": ["a", "b"]}\n{"query": "r", "answer": "c"}\n')
    found = read_queries_file(path, flag="--queries_file")
    assert found == [Question("q", ("a", "b")), Question("r", ("c",))]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"\n \n", "found no queries"),
        ("q.txt", b"fine\n\xff\n", ":2: found byte 0xff at byte 1 of the line, expected text"),
        ("q.txt", b"\x1f\x8b\x08", ":1: found gzip, expected plain text in UTF-8"),
        ("q.txt", b"a\0b", ":1: found a NUL character"),
        ("q.tsv", b"7\twhat\textra\n", ":1: found 3 columns, expected 2"),
        ("q.tsv", b"7\t \n", ":1: found an empty query"),
        ("q.jsonl", b'{"question": " "}\n', ":1: field 'query': found nothing, expected a text"),
        ("q.jsonl", b'{"question": "q", "answers": "a"}', ":1: field 'answers': found the string"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_queries_file(path, flag="--queries_file")
    assert message in str(caught.value) and str(caught.value).endswith("(--queries_file)")


def test_made_queries_are_the_seeds() -> None:
    assert [each.text for each in synthetic_queries(2)] == [
        "What is example topic 0?", "What is example topic 1?",
    ]  # fmt: skip
