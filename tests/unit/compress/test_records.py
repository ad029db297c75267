"""Offline records: what is written is read again, and every mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazetteer.compress.records import OfflineRecord, object_of, read_records, write_records
from gazetteer.errors import DataError

GOOD = {"query": "q", "documents": ["a", "b"], "answer": "x"}
FULL = OfflineRecord(
    query="Größe? \u2028",
    documents=("T: a\nb", ""),
    answer="x",
    reranking_scores=(0.1, -7.25),
    answers=("x", "y"),
    document_ids=("1", "p2"),
    provenance={"teacher": {"model": "m"}},
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.json"
    bare = OfflineRecord(query="q", documents=("d",), answer="")
    assert write_records(path, [FULL, bare]) == 2
    assert read_records(path, flag="--train_data") == [FULL, bare]
    # The seed's own way to read such a file.
    assert json.loads(path.read_text(encoding="utf-8"))[1] == {
        "query": "q", "documents": ["d"], "answer": "",
    }  # fmt: skip
    as_the_seed_writes = json.dumps(
        [object_of(FULL), object_of(bare)], ensure_ascii=False, indent=2
    )
    assert path.read_text(encoding="utf-8") == as_the_seed_writes + "\n"


def test_titles_of_documents_come_in_front(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    documents = [{"title": "T", "text": "a"}, {"text": "b"}, "c"]
    path.write_text(json.dumps([GOOD | {"documents": documents}]))
    assert read_records(path, flag="--train_data")[0].documents == ("T: a", "b", "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "field 'query': found nothing, expected a string"),
        ({"query": " "}, "field 'query': found a blank string, expected a query"),
        ({"documents": "a"}, "field 'documents': found the string \"a\", expected a list"),
        ({"documents": []}, "field 'documents': found an empty list, expected at least one"),
        ({"documents": [1]}, "field 'documents': found the number 1, expected strings, or objects"),
        ({"answer": 3}, "field 'answer': found the number 3, expected a string"),
        ({"reranking_scores": [1]}, "found 1 members, expected one for each of the 2 documents"),
        ({"reranking_scores": [1, None]}, "field 'reranking_scores': found nothing, expected num"),
        ({"reranking_scores": [1, float("nan")]}, "NaN, expected only finite numbers"),
        ({"document_ids": ["a"]}, "field 'document_ids': found 1 members, expected one for each"),
        ({"answers": ["a", 2]}, "field 'answers': found the number 2, expected strings"),
        ({"provenance": []}, "field 'provenance': found a list, expected an object"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps([GOOD, GOOD | change], indent=2))
    with pytest.raises(DataError) as caught:
        read_records(path, flag="--train_data")
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"{path}:") and "entry 2" in text and text.endswith("(--train_data)")
    assert "\n" not in text


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    path.write_text("[]")
    with pytest.raises(DataError, match="found no records"):
        read_records(path, flag="--train_data")
