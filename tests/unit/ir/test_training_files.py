"""Training files: our two forms lose nothing, and every other format says the same of a query."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from gazetteer.errors import DataError
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.training_exports import RECORDS, write_training_file
from gazetteer.ir.training_files import own_record, write_training_lines
from gazetteer.ir.training_formats import known_format, read_training_lines

TEXTS = TrainingLine(
    "12",
    'what is "NA"?\u2028',
    None,
    (Candidate("d1", None, None, "qrels", title="t1", text="x1"),),
    (
        Candidate("d7", 11.5, 3, "bm25", text=""),
        Candidate("d8", None, None, "", title="t8", text="x8"),
    ),
)
TOKENS = TrainingLine(
    "12",
    "what is it?",
    (1, 2),
    (Candidate("d1", 0.0, None, "qrels", tokens=(3,)),),
    (
        Candidate("d7", 11.5, 3, "bm25", tokens=(4, 5)),
        Candidate("", None, None, "", title="t", text="x", tokens=()),
    ),
)
MIXED = TrainingLine("", None, (1,), TEXTS.positives, TOKENS.negatives)
NAMED = TrainingLine("12", "q", None, (Candidate("d1", None, None, ""),), ())


def _read(path: Path, **flags: Any) -> list[TrainingLine]:
    return list(read_training_lines(path, flag="--train_path", **flags))


def _write(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


@pytest.mark.parametrize("line", [TEXTS, TOKENS, MIXED, NAMED])
def test_own_forms_lose_nothing(tmp_path: Path, line: TrainingLine) -> None:
    path = tmp_path / "new" / "train.jsonl"
    assert write_training_lines(path, [line, line]) == 2
    assert _read(path) == [line, line]


def test_token_lines_are_openmatch_lines_with_more_keys() -> None:
    record = json.loads(json.dumps(own_record(TOKENS)))
    assert record == {
        "query_id": "12",
        "query": [1, 2],
        "positives": [[3]],
        "negatives": [[4, 5], []],
        "query_text": "what is it?",
        "positive_ids": ["d1"],
        "positive_scores": [0.0],
        "positive_sources": ["qrels"],
        "negative_ids": ["d7", None],
        "negative_scores": [11.5, None],
        "negative_ranks": [3, None],
        "negative_sources": ["bm25", None],
        "negative_titles": [None, "t"],
        "negative_texts": [None, "x"],
    }


def test_plain_openmatch_lines_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "t.jsonl", {"query": [1], "positives": [[2]], "negatives": [[3]]})
    assert _read(path) == [
        TrainingLine(
            "",
            None,
            (1,),
            (Candidate("", None, None, "", tokens=(2,)),),
            (Candidate("", None, None, "", tokens=(3,)),),
        )
    ]


def _texts(*texts: str, scores: tuple[float | None, ...] = ()) -> tuple[Candidate, ...]:
    given = scores or (None,) * len(texts)
    return tuple(
        Candidate("", score, None, "" if score is None else "teacher", text=text)
        for text, score in zip(texts, given, strict=True)
    )


def _ids(*ids: str, source: str = "") -> tuple[Candidate, ...]:
    return tuple(Candidate(each, None, None, source) for each in ids)


FOREIGN: dict[str, tuple[dict[str, Any], TrainingLine]] = {
    "openmatch-pairs": (
        {"query": [1], "positive": [2], "negative": [3], "score": 1.5},
        TrainingLine(
            "",
            None,
            (1,),
            (Candidate("", 1.5, None, "teacher", tokens=(2,)),),
            (Candidate("", 0.0, None, "teacher", tokens=(3,)),),
        ),
    ),
    "openmatch-lists": (
        {"query": [1], "docs": [[2], [3]], "scores": [-2, -1]},
        TrainingLine(
            "",
            None,
            (1,),
            (Candidate("", -1.0, None, "teacher", tokens=(3,)),),
            (Candidate("", -2.0, None, "teacher", tokens=(2,)),),
        ),
    ),
    "tevatron": (
        {
            "query_id": 4,
            "query": "q",
            "positive_passages": [{"docid": "1", "title": "t", "text": "x"}],
            "negative_passages": [{"docid": 2, "text": "y", "score": 0.5}],
        },
        TrainingLine(
            "4",
            "q",
            None,
            (Candidate("1", None, None, "", title="t", text="x"),),
            (Candidate("2", 0.5, None, "", text="y"),),
        ),
    ),
    "tevatron-ids": (
        {
            "query_id": "4",
            "query_text": "q",
            "query_image": None,
            "positive_document_ids": ["1"],
            "negative_document_ids": [2],
        },
        TrainingLine("4", "q", None, _ids("1"), _ids("2")),
    ),
    "dpr": (
        {
            "question": "q",
            "answers": ["a"],
            "positive_ctxs": [{"title": "t", "text": "x", "score": "1.5", "passage_id": "7"}],
            "negative_ctxs": [{"title": "", "text": "n"}],
            "hard_negative_ctxs": [{"title": "", "text": "h", "psg_id": 8}],
        },
        TrainingLine(
            "",
            "q",
            None,
            (Candidate("7", 1.5, None, "", title="t", text="x"),),
            (
                Candidate("8", None, None, "hard_negative", text="h"),
                Candidate("", None, None, "negative", text="n"),
            ),
        ),
    ),
    "dpr (LEAD)": (
        {"question": "q", "answers": [3], "positive_ctxs": [3], "hard_negative_ctxs": ["5"]},
        TrainingLine("", "q", None, _ids("3"), _ids("5", source="hard_negative")),
    ),
    "msmarco-hard-negatives": (
        {"qid": 9, "pos": [1], "neg": {"bm25": [5, 6], "ance": [7]}},
        TrainingLine(
            "9",
            None,
            None,
            _ids("1"),
            (
                Candidate("5", None, 1, "bm25"),
                Candidate("6", None, 2, "bm25"),
                Candidate("7", None, 1, "ance"),
            ),
        ),
    ),
    "flag-embedding": (
        {"query": "q", "pos": ["x"], "neg": ["y"], "pos_scores": [2], "neg_scores": [1]},
        TrainingLine("", "q", None, _texts("x", scores=(2.0,)), _texts("y", scores=(1.0,))),
    ),
    "pylate": (
        {"query_id": 5, "document_ids": [1, 2], "scores": [0.1, 0.9]},
        TrainingLine(
            "5",
            None,
            None,
            (Candidate("2", 0.9, None, "teacher"),),
            (Candidate("1", 0.1, None, "teacher"),),
        ),
    ),
    "sentence-transformers": (
        {"question": "q", "positive": "x", "negative_1": "y", "negative_2": "z"},
        TrainingLine("", "q", None, _texts("x"), _texts("y", "z")),
    ),
    "sentence-transformers (margin)": (
        {"anchor": "q", "positive": "x", "negative": "y", "score": 3},
        TrainingLine("", "q", None, _texts("x", scores=(3.0,)), _texts("y", scores=(0.0,))),
    ),
    "sentence-transformers (scores)": (
        {"query": "q", "document_1": "x", "document_2": "y", "scores": [1, 2]},
        TrainingLine("", "q", None, _texts("y", scores=(2.0,)), _texts("x", scores=(1.0,))),
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("kind", ["jsonl", "list", "gzip"])
def test_formats_of_others_are_known_by_their_fields(tmp_path: Path, name: str, kind: str) -> None:
    value, expected = FOREIGN[name]
    assert known_format(value) == name.split(" (")[0]
    if kind == "jsonl":
        path = _write(tmp_path / "t.jsonl", value, value)
    elif kind == "gzip":
        path = tmp_path / "t.jsonl.gz"
        path.write_bytes(gzip.compress((json.dumps(value) + "\n").encode() * 2))
    else:
        path = tmp_path / "t.json"
        path.write_text(json.dumps([value, value], indent=1), encoding="utf-8")
    assert _read(path) == [expected, expected]


@pytest.mark.parametrize("form", RECORDS)
def test_written_for_others_and_read_again(tmp_path: Path, form: str) -> None:
    path = tmp_path / "t.jsonl"
    assert write_training_file(path, [TEXTS], form) == 1
    (line,) = _read(path)
    assert known_format(json.loads(path.read_text(encoding="utf-8"))) == form
    assert line.query == TEXTS.query
    kept = [c.text or c.id for c in (*line.positives, *line.negatives)]
    wanted = {
        "tevatron-ids": ["d1", "d7", "d8"],
        "flag-embedding": ["t1 x1", "", "t8 x8"],
        "sentence-transformers": ["t1 x1", "", "t8 x8"],
    }.get(form, ["x1", "", "x8"])
    assert kept == [
        text or each.id
        for text, each in zip(wanted, (*line.positives, *line.negatives), strict=True)
    ]


def test_a_text_that_is_missing_is_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r't\.jsonl: passage the string "d1": found no text'):
        write_training_file(tmp_path / "t.jsonl", [TEXTS, NAMED], "tevatron")
    assert list(tmp_path.iterdir()) == []


def test_dpr_lines_without_positives_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    value, expected = FOREIGN["dpr"]
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{**value, "positive_ctxs": []}, value]), encoding="utf-8")
    assert _read(path) == [expected]
    assert "1 lines left out" in caplog.text


def test_triples_are_ids_or_texts(tmp_path: Path) -> None:
    ids, texts = tmp_path / "ids.tsv", tmp_path / "texts.tsv"
    ids.write_bytes(b"1\t2\t3\r\n4\t5\t6\r\n")
    texts.write_bytes(b'a "query\tNA\tsome text\n')
    assert _read(ids) == [
        TrainingLine("1", None, None, _ids("2"), _ids("3")),
        TrainingLine("4", None, None, _ids("5"), _ids("6")),
    ]
    assert _read(texts) == [TrainingLine("", 'a "query', None, _texts("NA"), _texts("some text"))]


GOOD = own_record(TOKENS)
BAD: dict[str, tuple[Any, str]] = {
    "no positives": ({**GOOD, "positives": []}, "found 1 members, expected 0"),
    "none at all": ({"query": "q", "positives": []}, "found no positives"),
    "a text as token": ({**GOOD, "query": ["a"]}, "field 'query': found the string"),
    "a negative token": ({**GOOD, "query": [-1]}, "field 'query': found the number -1"),
    "true as token": ({**GOOD, "query": [True]}, "field 'query': found the boolean true"),
    "ids of other length": ({**GOOD, "negative_ids": ["x"]}, "found 1 members, expected 2"),
    "a text as score": ({**GOOD, "negative_scores": ["x", 1]}, "field 'negative_scores': found"),
    "rank 0": ({**GOOD, "negative_ranks": [0, 1]}, "field 'negative_ranks': found the number 0"),
    "no query": ({"positives": [[1]]}, "found no field 'query'"),
    "passage without anything": ({"query": "q", "positives": [{"title": "t"}]}, "neither id"),
    "no passage": ({"query": "q", "positives": ["x"]}, "field 'positives': found the string"),
    "fields of nothing": ({"a": 1, "b": 2}, "expected those of a training file"),
    "a list": ([1], "found a list, expected a JSON object"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(tmp_path: Path, name: str) -> None:
    value, expected = BAD[name]
    lines = [value] if name in ("fields of nothing",) else [own_record(TOKENS), value]
    path = _write(tmp_path / "t.jsonl", *lines)
    with pytest.raises(DataError) as caught:
        _read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{len(lines)}: ") and message.endswith(" (--train_path)")
    assert expected in message and "\n" not in message


BAD_LISTS = {
    "cut off": ('[{"question": "q"', ":1: entry 1: not valid JSON"),
    "no comma": ("[\n{LINE}\n{LINE}]", ":3: entry 1: found '{', expected a comma"),
    "wrong member": ("[{LINE},\n3]", ":2: entry 2: found the number 3"),
    "more": ("[{LINE}] [", ":1: entry 1: found more after the end"),
    "no end": ("[{LINE}\n", ":2: entry 1: found 'the end of the file'"),
    "bad line": ('[{LINE},\n\n {"question": 3}]', ":3: entry 2: field 'question': found"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_bad_list_is_named(tmp_path: Path, name: str) -> None:
    text, expected = BAD_LISTS[name]
    path = tmp_path / "t.json"
    line = json.dumps(FOREIGN["dpr"][0])
    path.write_text(text.replace("{LINE}", line), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        _read(path)
    assert str(caught.value).startswith(f"{path}{expected}")


def test_a_list_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gazetteer.ir.lines.READ_CHARACTERS", 3)
    value, expected = FOREIGN["dpr"]
    path = tmp_path / "t.json"
    path.write_text(json.dumps([value] * 3, indent=2), encoding="utf-8-sig")
    assert _read(path) == [expected] * 3
    path.write_text("[\n]\n", encoding="utf-8")
    assert _read(path) == []
