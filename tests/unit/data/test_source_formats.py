"""Sources whose names do not say all: columns named by flags, and ids by other names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazetteer.data.corpus import cached_passage_store
from gazetteer.data.passage_rows import IDS_OF_OTHERS, SourceFormat
from gazetteer.errors import DataError

NAMED = SourceFormat("--corpus_path", ("id", "title", "text"), IDS_OF_OTHERS)


def _read(path: Path, content: str | bytes, form: SourceFormat = NAMED) -> list[dict[str, object]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    store = cached_passage_store([path], path.parent / "cache", form=form)
    return store.records(range(store.count))


@pytest.mark.parametrize("name", ["c.tsv", "c.txt"])
def test_named_columns_are_neither_quoted_nor_guessed(tmp_path: Path, name: str) -> None:
    content = 'id\ttitle\ttext\r\n1\t"unbalanced\tNA\n2\t\tNULL\n3\tnan\t\n'
    assert _read(tmp_path / name, content) == [
        {"id": "id", "title": "title", "text": "text"},
        {"id": "1", "title": '"unbalanced', "text": "NA"},
        {"id": "2", "title": "", "text": "NULL"},
        {"id": "3", "title": "nan", "text": ""},
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_name_of_an_id_that_is_there(tmp_path: Path, processes: int) -> None:
    objects = [
        {"_id": "a", "text": "x", "metadata": {"url": "u"}},
        {"id": 7, "text": "y"},
        {"text_id": "c", "text": "z", "title": "t"},
        {"sample_id": 0, "text": ""},
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    store = cached_passage_store([path], tmp_path / "cache", form=NAMED, processes=processes)
    assert store.ids(range(4)) == ["a", "7", "c", "0"]
    assert store.records([0]) == [
        {"id": "a", "title": "", "text": "x", "metadata": {"url": "u"}},
    ]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("c.tsv", "1\tt\tx\n2\tx\n", r"c.tsv:2: found 2 columns, expected 3 \(id, title, text\)"),
        ("c.tsv", "\tt\tx\n", r"c.tsv:1: field 'id': found nothing"),
        ("c.jsonl", '{"text": "x"}\n', r"c.jsonl:1: field 'id': found nothing"),
        ("c.jsonl", '{"_id": true, "text": "x"}\n', "field 'id': found the boolean true"),
        ("c.jsonl", '{"_id": "1"}\n', "field 'text': found nothing"),
        ("c.tsv", b"1\tt\t\xff\n", "c.tsv:1: found byte 0xff"),
    ],
)
def test_bad_lines_name_the_flag(
    tmp_path: Path, name: str, content: str | bytes, expected: str
) -> None:
    with pytest.raises(DataError, match=expected) as error:
        _read(tmp_path / name, content)
    assert str(error.value).endswith("(--corpus_path)")


def test_texts_may_be_under_other_names(tmp_path: Path) -> None:
    form = SourceFormat("--query_path", ("qid", "question"), ("qid",), needs_text=False)
    assert _read(tmp_path / "q.tsv", "1\twho?\n", form) == [
        {"id": "1", "title": "", "text": "", "question": "who?"}
    ]


def test_another_form_is_another_corpus(tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    first = _read(path, "1\tb\tc\n", SourceFormat())
    assert [first, _read(path, "1\tb\tc\n")] == [
        [{"id": "1", "title": "c", "text": "b"}],
        [{"id": "1", "title": "b", "text": "c"}],
    ]
