"""LEAD's released files become ours: passages counted from 0, lines numbered, lists read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prepare_lead import main

from gazetteer.ir.collections import read_queries
from gazetteer.ir.judgements import read_qrels
from gazetteer.ir.training_formats import read_training_lines


@pytest.fixture
def released(tmp_path: Path) -> Path:
    folder = tmp_path / "mspas"
    folder.mkdir()
    (folder / "psgs_w100.tsv").write_text(
        'id\ttext\ttitle\n1\tNA is "text\tÄ\n2\tsecond\t\n3\tthird\ttitle\n'
    )
    lines = [
        {
            "question": "what is first", "answers": ["0"], "positive_ctxs": ["0"],
            "negative_ctxs": [], "hard_negative_ctxs": ["1", "2"],
        },
        {
            "question": "and\tthird", "answers": [2], "positive_ctxs": [2],
            "negative_ctxs": [], "hard_negative_ctxs": [1],
        },
    ]  # fmt: skip
    (folder / "biencoder-mspas-train.json").write_text(json.dumps(lines))
    (folder / "mspas-test.qa.csv").write_text("asked\t[0, 2]\nand\t['1']\n")
    return folder


def run(released: Path, output: Path, dataset: str = "mspas") -> int:
    return main(["--dataset", dataset, "--input_dir", str(released), "--output_dir", str(output)])


def test_released_files_become_ours(released: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(released, output) == 0
    corpus = (output / "corpus.tsv").read_text().splitlines()
    assert corpus == ['0\tÄ\tNA is "text', "1\t\tsecond", "2\ttitle\tthird"]
    first, second = read_training_lines(output / "train.jsonl", flag="--train_data")
    assert (first.query_id, first.query) == ("0", "what is first")
    assert [each.id for each in first.positives] == ["0"]
    assert [each.id for each in second.negatives] == ["1"]
    assert read_qrels(output / "train.qrels.tsv", flag="-") == {"0": {"0": 1}, "1": {"2": 1}}
    assert [each.text for each in read_queries(output / "train.queries.tsv", flag="-")] == [
        "what is first", "and third"
    ]  # fmt: skip
    assert read_qrels(output / "dev.qrels.tsv", flag="-") == {"0": {"0": 1, "2": 1}, "1": {"1": 1}}


def test_mistakes_are_one_line(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(released, tmp_path / "none", dataset="msdoc") == 0
    assert run(tmp_path, tmp_path / "none") == 2
    (released / "psgs_w100.tsv").write_text("0\ttext\ttitle\n")
    assert run(released, tmp_path / "bad") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "found none of LEAD's files of mspas" in lines[0]
    assert 'psgs_w100.tsv:1: found the string "0", expected a number from 1' in lines[1]
    assert not (tmp_path / "bad" / "corpus.tsv").exists()
