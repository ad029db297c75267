from __future__ import annotations

import json
from pathlib import Path

import pytest

from gazetteer.compress.lines import evaluation_file, line_of, read_both, write_lines
from gazetteer.compress.records import OfflineRecord, write_records
from gazetteer.errors import DataError, OptionError


def record(number: int, *, answer: str = "oslo", **more) -> OfflineRecord:
    return OfflineRecord(
        query=f"what is {number}?", documents=(f"d{number}", "d"), answer=answer, **more
    )


def write(path: Path, numbers: range, **more) -> Path:
    write_records(path, [record(number, **more) for number in numbers])
    return path


def test_a_line_has_what_the_record_has() -> None:
    whole = record(3, answers=("Oslo", "Kristiania"), reranking_scores=(2.5, -1.0))
    line = line_of(whole, 7, scored=True)
    assert line["question"] == "what is 3?" and line["target"] == "oslo"
    assert line["answers"] == ["Oslo", "Kristiania"]
    assert line["passages"] == [
        {"id": "7-0", "title": "", "text": "d3"},
        {"id": "7-1", "title": "", "text": "d"},
    ]
    assert line["reranking_scores"] == [2.5, -1.0]
    assert "reranking_scores" not in line_of(whole, 7, scored=False)
    assert line_of(record(1), 0, scored=True)["answers"] == ["oslo"]


def test_text_of_any_script_is_written_as_it_is(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [record(1, answer="Ōsaka\u2028大阪")], scored=False)
    (line,) = (tmp_path / "a.jsonl").read_bytes().decode().rstrip("\n").split("\n")
    assert json.loads(line)["target"] == "Ōsaka\u2028大阪"


def test_the_evaluation_file_never_is_the_training_file(tmp_path: Path) -> None:
    assert evaluation_file(tmp_path / "records") == tmp_path / "records_eval"
    assert evaluation_file(tmp_path / "a.b.json") == tmp_path / "a.b_eval.json"


def test_records_to_evaluate_on_are_named_found_or_held_out(tmp_path: Path) -> None:
    train = write(tmp_path / "r.json", range(25))
    learned, judged, source = read_both(train, None)
    assert (len(learned), len(judged)) == (23, 2) and "last 2 records" in source
    write(tmp_path / "r_eval.json", range(30, 33))
    learned, judged, source = read_both(train, None)
    assert (len(learned), len(judged)) == (25, 3) and source.endswith("r_eval.json")
    other = write(tmp_path / "other.json", range(40, 44))
    assert len(read_both(train, other)[1]) == 4


def test_a_test_on_what_was_learned_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "r.json", range(5))
    with pytest.raises(OptionError, match="must be another file than --train_data"):
        read_both(train, tmp_path / "." / "r.json")
    overlap = tmp_path / "o.json"
    write_records(
        overlap, [record(9), OfflineRecord(query="What is 2 ?", documents=("d", "d2"), answer="x")]
    )
    with pytest.raises(
        DataError, match=r"o\.json: record 2: the question .* is record 3 of .*r\.json"
    ):
        read_both(train, overlap)


def test_an_unanswered_record_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "r.json", [record(0), record(1, answer=" ")])
    with pytest.raises(DataError, match=r"r\.json: record 2: field 'answer'.*\(--train_data\)"):
        read_both(tmp_path / "r.json", None)
    write(tmp_path / "one.json", range(1))
    with pytest.raises(OptionError, match="holds one record"):
        read_both(tmp_path / "one.json", None)
