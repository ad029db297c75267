"""Questions become records with passages, on a made-up collection."""

import json

import pytest
from prepare_factbook_records import main

from gazetteer.compress.records import read_records


@pytest.fixture
def source(tmp_path):
    passages = [
        {"id": f"p{n}", "title": f"Land{n}", "section": "Government", "text": f"Capital: City{n}"}
        for n in range(8)
    ]
    write(tmp_path / "passages.jsonl", passages)
    for split in ("train", "dev", "test"):
        questions = [
            {
                "id": f"{split}{n}",
                "question": f"what is the capital of Land{n}?",
                "answers": [f"City{n}"],
                "target": f"City{n}",
                "field": "capital" if n % 2 else "area",
                "gold_passage_id": f"p{n}",
            }
            for n in range(6)
        ]
        write(tmp_path / f"{split}.jsonl", questions)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(source, *more):
    arguments = ["--source", str(source), "--output_directory", str(source / "records"), *more]
    assert main(arguments) == 0
    return read_records(source / "records" / "test.json", flag="--eval_data")


def test_the_passage_with_the_answer_is_among_others_anywhere(source):
    records = run(source, "--documents", "3")
    places = set()
    for record in records:
        assert len(set(record.documents)) == 3 == len(record.document_ids)
        gold = [text for text in record.documents if record.answer in text]
        assert gold == [f"Land{record.answer[4:]}, Government: Capital: {record.answer}"]
        places.add(record.documents.index(gold[0]))
    assert len(places) > 1, "its place gives nothing away"
    assert run(source, "--documents", "3") == records


def test_fewer_fields_and_records(source):
    assert len(run(source, "--fields", "capital")) == 3
    assert len(run(source, "--max_records", "2")) == 2


def test_what_is_missing_is_one_line(source, capsys):
    (source / "test.jsonl").unlink()
    assert main(["--source", str(source), "--output_directory", str(source / "r")]) == 2
    assert "test.jsonl: No such file" in capsys.readouterr().err
