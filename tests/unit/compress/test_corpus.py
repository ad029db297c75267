"""Corpora: all of KILT's text in pieces, passages as they are, and only as much as is asked for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gazetteer.compress.corpus import (
    Chunking,
    built_in_corpus,
    cut_tokens,
    cutter,
    open_corpus,
    page_text,
)
from gazetteer.compress.queries import synthetic_queries
from gazetteer.errors import CheckpointError, DataError
from tests.support.tiny_data import write_jsonl
from tests.support.tiny_models import retriever_tokenizer

PAGE = {
    "wikipedia_id": "12",
    "wikipedia_title": "Anarchism",
    "text": [
        "Anarchism\n",
        "one two three four\n",
        "Section::::History.\n",
        "BULLET::::- five six",
    ],
    "anchors": [],
}


def test_all_paragraphs_are_cut_and_carry_the_title(tmp_path: Path) -> None:
    other = {"wikipedia_id": 13, "wikipedia_title": "Empty", "text": []}
    path = write_jsonl(tmp_path / "kilt.json", [PAGE, other, PAGE | {"wikipedia_id": "14"}])
    store = open_corpus(path, tmp_path / "cache", chunking=Chunking(words=3))
    records = store.records(range(store.count))
    texts = ["one two three", "four History. five", "six"]
    assert [r["text"] for r in records] == texts * 2
    assert {r["title"] for r in records} == {"Anarchism"}
    assert [r["id"] for r in records] == ["12-0", "12-1", "12-2", "14-0", "14-1", "14-2"]
    first = open_corpus(path, tmp_path / "cache", max_documents=2, chunking=Chunking(words=3))
    assert first.count == 3
    # Nothing behind the last page wanted is looked at.
    packed = tmp_path / "kilt.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert open_corpus(packed, tmp_path / "cache", chunking=Chunking(words=3)).count == 6
    path.write_text(json.dumps(PAGE) + "\nno json\n")
    assert open_corpus(path, tmp_path / "cache", max_documents=1).count == 1
    with pytest.raises(DataError, match=r"kilt\.json:2: not valid JSON"):
        open_corpus(path, tmp_path / "cache")


def test_pieces_of_tokens_end_between_words() -> None:
    text = "paris unknown xyz oslo is big"
    tokenizer = retriever_tokenizer()
    pieces = cut_tokens(text, 8, tokenizer)
    assert " ".join(pieces) == text and len(pieces) > 1
    # A word that is longer than a piece is one of its own.
    lengths = [len(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in pieces]
    assert all(n <= 8 or " " not in p for n, p in zip(lengths, pieces, strict=True))
    with pytest.raises(CheckpointError, match=r"\(--passage_tokenizer\)"):
        cutter(Chunking(tokenizer="no/such"))


def test_a_title_within_the_text_stays() -> None:
    assert page_text("A", ["A is b.", "A"]) == "A is b. A"


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.tsv"])
def test_passages_stay_as_they_are(tmp_path: Path, name: str) -> None:
    rows = [{"id": "1", "title": "T", "text": "a b"}, {"id": "2", "title": "", "text": "c"}]
    path = tmp_path / name
    if name.endswith("tsv"):
        path.write_text("id\ttext\ttitle\n1\ta b\tT\n2\tc\t\n")
    elif name.endswith("jsonl"):
        write_jsonl(path, rows)
    else:
        path.write_text(json.dumps(rows))
    store = open_corpus(path, tmp_path / "cache")
    assert [(r["id"], r["title"], r["text"]) for r in store.records([0, 1])] == [
        ("1", "T", "a b"), ("2", "", "c"),
    ]  # fmt: skip
    assert open_corpus(path, tmp_path / "cache", max_documents=1).count == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found no passages"),
        ("[]", "found no passages"),
        ('[{"id": "1"}]', "entry 1: field 'text': found nothing, expected a string"),
        ('{"wikipedia_id": "1", "wikipedia_title": "t", "text": "x"}', "a list of paragraphs"),
        ('{"wikipedia_title": "t", "text": ["x"]}', "field 'wikipedia_id': found nothing"),
        ('{"id": "1", "text": 3}', "field 'text': found the number 3, expected a string"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "corpus.json"
    path.write_text(content)
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            open_corpus(path, tmp_path / "cache")
        assert message in str(caught.value) and "(--corpus_path)" in str(caught.value)


def test_the_built_in_corpus_answers_the_made_queries(tmp_path: Path) -> None:
    store = built_in_corpus(tmp_path, 120)
    titles = [each["title"] for each in store.records(range(store.count))]
    assert [f"What is {t.lower()}?" for t in titles] == [
        each.text.replace("E", "e") for each in synthetic_queries(120)
    ]
