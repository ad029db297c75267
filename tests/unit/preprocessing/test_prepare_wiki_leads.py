"""Leads become passages of even length, some of them held out; other files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import prepare_wiki_leads
import pytest


def make_source(folder: Path, leads: dict[str, Any]) -> Path:
    path = folder / "summaries.json"
    path.write_text(json.dumps(leads, ensure_ascii=False), encoding="utf-8")
    return path


def article(words: int, word: str = "é") -> dict[str, Any]:
    return {"title": "unused", "extract": " ".join(f"{word}{n}" for n in range(words))}


def run(source: Path, output: Path, *words: str) -> int:
    return prepare_wiki_leads.main(
        ["--source", str(source), "--output_directory", str(output), *words]
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_every_word_is_kept_in_pieces_as_even_as_can_be(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"A": article(100), "B": article(101), "C": article(250)})
    assert run(source, tmp_path, "--valid", "0") == 0
    found = rows(tmp_path / "passages.jsonl")
    assert [(row["id"], len(row["text"].split())) for row in found] == [
        ("A#0", 100),
        ("B#0", 50), ("B#1", 51),
        ("C#0", 83), ("C#1", 83), ("C#2", 84),
    ]  # fmt: skip
    text = " ".join(row["text"] for row in found if row["title"] == "C")
    assert text == article(250)["extract"]


def test_held_out_passages_are_in_one_file_only_and_the_same_in_any_order(tmp_path: Path) -> None:
    leads = {f"Title {n}": article(7, f"w{n}_") for n in range(30)}
    for name, source in (("a", leads), ("b", dict(reversed(leads.items())))):
        (tmp_path / name).mkdir()
        assert run(make_source(tmp_path / name, source), tmp_path / name, "--valid", "10") == 0
    ids = {
        (name, file): [row["id"] for row in rows(tmp_path / name / f"{file}.jsonl")]
        for name in "ab"
        for file in ("passages", "valid")
    }
    assert len(ids["a", "valid"]) == 10
    assert sorted(ids["a", "valid"] + ids["a", "passages"]) == sorted(f"{t}#0" for t in leads)
    assert sorted(ids["a", "valid"]) == sorted(ids["b", "valid"])
    run(tmp_path / "a" / "summaries.json", tmp_path, "--valid", "10", "--seed", "1")
    assert {row["id"] for row in rows(tmp_path / "valid.jsonl")} != set(ids["a", "valid"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "not a JSON file"),
        ("[]", "expected an object of articles"),
        ('{"A": {"extract": null}}', "article 'A': expected a text in 'extract'"),
        ('{"A": "text"}', "article 'A': expected a text in 'extract'"),
        ('{"A": {"extract": " "}}', "0 passages, so --valid 500 leaves none"),
        ('{"A": {"extract": "word"}}', "1 passages, so --valid 500 leaves none"),
    ],
)
def test_other_files_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, problem: str
) -> None:
    source = tmp_path / "summaries.json"
    source.write_text(content)
    assert run(source, tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert f"prepare_wiki_leads: {source}" in shown and problem in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_source_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nowhere.json", tmp_path) == 2
    assert "nowhere.json: No such file" in capsys.readouterr().err
