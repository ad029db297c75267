"""Corpora, queries, judgements and runs: every layout is read, and what is written reads back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gazetteer.data.passage_rows import SourceFormat
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.errors import DataError
from gazetteer.ir.collections import (
    BeirFolder,
    read_documents,
    read_kilt_pages,
    read_queries,
    read_top1000,
    write_documents,
    write_queries,
)
from gazetteer.ir.judgements import read_qrels, write_qrels
from gazetteer.ir.passage_lookup import PassageLookup, with_texts
from gazetteer.ir.records import Candidate, Document, Query, TrainingLine
from gazetteer.ir.runs import ranked, read_run, write_run

DOCUMENTS = [
    Document("d1", "NA", 'a "quote\u2028 NULL'),
    Document("2", "", "x"),
    Document("e", "", ""),
]


def _file(folder: Path, text: str, name: str = "file.tsv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def _error(reading: object, path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(reading(path, flag="--flag"))  # type: ignore[operator]
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(" (--flag)")
    assert "\n" not in message
    return message.removeprefix(str(path)).removesuffix(" (--flag)")


def test_a_corpus_is_written_for_beir_and_read(tmp_path: Path) -> None:
    path = BeirFolder(tmp_path / "c").corpus
    assert write_documents(path, DOCUMENTS) == 3
    assert json.loads(path.read_text(encoding="utf-8").split("\n")[0])["_id"] == "d1"
    assert list(read_documents(path, SourceFormat())) == DOCUMENTS


def test_tab_separated_corpora_have_no_quoting(tmp_path: Path) -> None:
    path = _file(tmp_path, 'd1\tNA\ta "quote NULL\r\n2\t\tx\r\n')
    assert [(d.id, d.title, d.text) for d in read_documents(path, SourceFormat())] == [
        ("d1", "NA", 'a "quote NULL'),
        ("2", "", "x"),
    ]
    named = read_documents(path, SourceFormat(columns=("id", "text", "title")))
    assert next(named) == Document("d1", 'a "quote NULL', "NA")
    path = _file(tmp_path, "d1\ta\nd2\n")
    with pytest.raises(DataError) as caught:
        list(read_documents(path, SourceFormat("--corpus_path")))
    assert str(caught.value) == (
        f"{path}:2: found 1 column, expected 2 (id, text), split at tabs (--corpus_path)"
    )


def test_kilt_pages_join_their_paragraphs(tmp_path: Path) -> None:
    page = {"wikipedia_id": 12, "wikipedia_title": "T", "text": ["T\n", "One.\n", "Two.\n"]}
    path = _file(tmp_path, json.dumps(page) + "\n", "kilt.jsonl")
    assert list(read_kilt_pages(path, flag="--f")) == [Document("12", "T", "T One. Two.")]


@pytest.mark.parametrize("name", ["q.tsv", "q.jsonl"])
def test_queries_read_back(tmp_path: Path, name: str) -> None:
    queries = [Query("1", 'what is "NULL'), Query("q2", "NA")]
    write_queries(tmp_path / name, queries)
    assert read_queries(tmp_path / name, flag="--f") == queries


def test_queries_under_other_names(tmp_path: Path) -> None:
    lines = ['{"query_id": 3, "query": "a"}', '{"id": "k", "input": "b", "output": []}']
    path = _file(tmp_path, "\n".join(lines), "q.jsonl")
    assert read_queries(path, flag="--f") == [Query("3", "a"), Query("k", "b")]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("q.tsv", "1\ta\n1\tb\n", ':2: found query id the string "1" twice'),
        ("q.tsv", "1\ta\n2\tb\tc\n", ":2: found 3 columns, expected 2, split at tabs"),
        ("q.tsv", "1\t \n", ":1: found an empty query"),
        ("q.tsv", "\ta\n", ":1: found an empty id"),
        ("q.tsv", "\n", ": found no queries"),
        ("q.jsonl", '{"text": "a"}', ":1: field '_id': found nothing, expected an id"),
        ("q.jsonl", '{"_id": "1"}', ":1: field 'text': found nothing, expected a string"),
        ("q.jsonl", '{"_id": true, "text": "a"}', ":1: field '_id': found the boolean true"),
    ],
)
def test_bad_queries_are_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    assert _error(read_queries, _file(tmp_path, text, name)).startswith(expected)


def test_the_top_1000_come_with_their_texts(tmp_path: Path) -> None:
    path = tmp_path / "top1000.tsv"
    path.write_text('1\t7\twhat "is\tNA\n', encoding="utf-8")
    assert list(read_top1000(path, flag="--f")) == [
        (Query("1", 'what "is'), Document("7", "", "NA"))
    ]


QRELS = {"q1": {"d1": 1, "d2": 0}, "q2": {"d1": 2}}


@pytest.mark.parametrize(
    "text",
    [
        "q1\t0\td1\t1\nq1\t0\td2\t0\nq2\t0\td1\t2\n",
        "q1 0 d1 1\r\nq1 0 d2 0\r\nq2 Q0 d1  2\r\n",
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\nq2\td1\t2\n",
        "q1\td1\t1\nq1\td2\t0\nq1\td1\t1\nq2\td1\t2\n",
    ],
    ids=["MS MARCO", "TREC", "BEIR", "one of them twice"],
)
def test_judgements_of_any_layout(tmp_path: Path, text: str) -> None:
    assert read_qrels(_file(tmp_path, text), flag="--f") == QRELS


def test_two_columns_are_relevant(tmp_path: Path) -> None:
    assert read_qrels(_file(tmp_path, "1\t2\n1\t3\n"), flag="--f") == {"1": {"2": 1, "3": 1}}


@pytest.mark.parametrize("for_beir", [True, False])
def test_judgements_read_back(tmp_path: Path, for_beir: bool) -> None:
    write_qrels(tmp_path / "new" / "q.tsv", QRELS, for_beir=for_beir)
    assert read_qrels(tmp_path / "new" / "q.tsv", flag="--f") == QRELS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": found no judgements"),
        ("q1 0 d1 1\nq1 0 d1 2\n", ': query the string "q1", document the string "d1": found'),
        ("q1 0 d1 1\nq1 0 d2 yes\n", ':2: found the grade the string "yes", expected a whole'),
        ("q1 0 d1 1\nq1 d1\n", ":2: found 2 columns, expected 4"),
        ("q1\n", ":1: found 1 columns, expected 2 or 3 or 4"),
    ],
)
def test_bad_judgements_are_named(tmp_path: Path, text: str, expected: str) -> None:
    assert _error(read_qrels, _file(tmp_path, text)).startswith(expected)


def test_runs_are_ordered_as_trec_eval_does() -> None:
    scores = {"d10": 1.0, "d9": 1.00000001, "é": 1.0, "a": 2.0, "z": -1e300}
    assert [each for each, _ in ranked(scores)] == ["a", "é", "d9", "d10", "z"]


def test_a_run_reads_back(tmp_path: Path) -> None:
    run = {"q2": {"a": float(np.float32(0.1)), "b": 0.1}, "q 1": {"d": -3.0}}
    write_run(tmp_path / "r.trec", run, tag="mine")
    assert read_run(tmp_path / "r.trec", flag="--f") == {
        "q2": {"a": 0.1, "b": 0.1},
        "q 1": run["q 1"],
    }
    first = (tmp_path / "r.trec").read_text().splitlines()[0]
    assert first.split("\t") == ["q2", "Q0", "b", "1", "0.1", "mine"]


def test_three_columns_are_scores_or_ranks(tmp_path: Path) -> None:
    scores = _file(tmp_path, "q\ta\t2\nq\tb\t1\n")
    assert read_run(scores, flag="--f") == {"q": {"a": 2.0, "b": 1.0}}
    ranks = _file(tmp_path, "q\ta\t1\np\ta\t1\nq\tb\t2\n")
    assert read_run(ranks, flag="--f") == {"q": {"a": -1.0, "b": -2.0}, "p": {"a": -1.0}}


def test_a_repeated_document_keeps_its_best_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _file(tmp_path, "q Q0 d 1 0.5 t\nq Q0 d 2 0.7 t\nq Q0 d 3 0.1 t\n")
    assert read_run(path, flag="--f") == {"q": {"d": 0.7}}
    assert "2 lines name a document for the second time" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": found no lines of a run"),
        ("q Q0 d 1 nan t\n", ':1: found the score the string "nan", expected a finite number'),
        ("q Q0 d 1 0.5\n", ":1: found 5 columns, expected 3 or 6"),
    ],
)
def test_bad_runs_are_named(tmp_path: Path, text: str, expected: str) -> None:
    assert _error(read_run, _file(tmp_path, text)).startswith(expected)


def test_a_run_that_no_file_can_hold_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither tab nor line end"):
        write_run(tmp_path / "r", {"q": {"a\tb": 1.0}})
    assert list(tmp_path.iterdir()) == []


def _store(folder: Path, *ids: str) -> PassageStore:
    return write_passages([{"id": i, "title": f"t{i}", "text": f"x{i}"} for i in ids], folder)


def test_passages_are_found_by_id(tmp_path: Path) -> None:
    lookup = PassageLookup(_store(tmp_path / "s", *map(str, range(50))))
    assert lookup.rows(["49", "0", "7", "7"]).tolist() == [49, 0, 7, 7]
    assert lookup.rows([]).tolist() == []
    assert "7" in lookup and "50" not in lookup
    with pytest.raises(DataError, match=r'found no passage the string "50" \(--passages\)'):
        lookup.rows(["1", "50"])


def test_ids_with_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gazetteer.ir.passage_lookup.hash", len, raising=False)
    lookup = PassageLookup(_store(tmp_path / "s", "aa", "b", "cc"))
    assert lookup.rows(["cc", "aa", "b"]).tolist() == [2, 0, 1]
    assert "dd" not in lookup


def test_an_id_of_two_passages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='passage id the string "a": found it in rows 1 and 3'):
        PassageLookup(_store(tmp_path / "s", "a", "b", "a"))


def test_training_lines_get_the_texts_they_name(tmp_path: Path) -> None:
    lookup = PassageLookup(_store(tmp_path / "s", "a", "b"))
    given = Candidate("b", None, None, "", text="own")
    line = TrainingLine("q", None, None, (Candidate("a", 1.0, 2, "s"),), (given,))
    filled = with_texts(line, {"q": "text"}, lookup)
    assert filled.query == "text" and filled.negatives == (given,)
    assert filled.positives == (Candidate("a", 1.0, 2, "s", "ta", "xa"),)
    with pytest.raises(DataError, match='found no query the string "q"'):
        with_texts(line, {}, lookup)
