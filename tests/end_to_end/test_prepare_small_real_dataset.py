"""`prepare_small_real_dataset.py`: the seed's commands, from files and from a made-up hub."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gazetteer.compress.records import OfflineRecord, read_records
from gazetteer.compress.small_real import evaluation_file, main
from tests.support.compress_models import save_tiny_teacher
from tests.support.tiny_data import write_jsonl


def squad_file(path: Path, articles: int, questions: int) -> Path:
    """SQuAD as it is published."""
    data = [
        {
            "title": f"Article {number}",
            "paragraphs": [
                {
                    "context": f"Paragraph {place} of article {number} says {number * 7}.",
                    "qas": [
                        {
                            "question": f"What says paragraph {place} of {number}?",
                            "answers": [{"text": str(number * 7)}, {"text": f"{number * 7}."}],
                        }
                    ],
                }
                for place in range(questions)
            ],
        }
        for number in range(articles)
    ]
    path.write_text(json.dumps({"version": "1.1", "data": data}, indent=1), encoding="utf-8")
    return path


def hub_row(name: str, number: int) -> dict[str, Any]:
    """A row of each set as the hub gives it."""
    title, text = f"{name} {number // 4}", f"Text {number} of {name} has {number}."
    if name == "squad":
        answers = {"text": [str(number)], "answer_start": [5]}
        return {"title": title, "context": text, "question": f"s {number}?", "answers": answers}
    if name == "natural_questions":
        tokens = text.split()
        short = {"start_token": [1], "end_token": [2], "text": [tokens[1]]}
        return {
            "question": {"text": f"n {number}"},
            "document": {"title": title, "tokens": {"token": tokens, "is_html": [0] * len(tokens)}},
            "annotations": {"short_answers": [short] if number % 3 else []},
        }
    if name == "trivia_qa":
        return {
            "question": f"t {number}?",
            "answer": {"value": str(number), "aliases": []},
            "search_results": {"title": [f"{name} {number}"], "search_context": [text]},
        }
    titles = [f"{name} {number} {n}" for n in range(10)]
    return {
        "question": f"h {number}?",
        "answer": str(number),
        "context": {"title": titles, "sentences": [[text]] * 10},
        "supporting_facts": {"title": [f"{name} {number} 8"], "sent_id": [0]},
    }  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A package `datasets` that has all four sets; what it was asked for."""
    asked: list[tuple[Any, ...]] = []
    names = {"squad": "squad", "natural_questions": "natural_questions"}
    names |= {"trivia_qa": "trivia_qa", "hotpot_qa": "hotpot_qa"}

    def load(path: str, config: str | None, *, split: str, streaming: bool) -> Any:
        asked.append((path, config, split))
        assert streaming
        if path.endswith("squad") and split == "test":
            raise ValueError("Unknown split 'test'")
        return (hub_row(names[path.partition("/")[2]], number) for number in range(5000))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    monkeypatch.chdir(tmp_path)
    return asked


def both(name: str) -> tuple[list[OfflineRecord], list[OfflineRecord]]:
    path = Path(name)
    return tuple(read_records(p, flag="--x") for p in (path, evaluation_file(path)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ("--dataset squad --num_examples 500", (450, 50)),
        ("--dataset trivia_qa --num_examples 500 --output_file small_real_dataset.json", (450, 50)),
        ("--dataset hotpot_qa --num_examples 500 --output_file small_real_dataset.json", (450, 50)),
        ("--dataset all --num_examples 800 --output_file small_real_dataset.json", (720, 80)),
        ("--num_examples 200", (180, 20)),
    ],
)
def test_the_commands_of_the_seed(
    hub: list[tuple[Any, ...]], words: str, sizes: tuple[int, int]
) -> None:
    assert main(shlex.split(words)) == 0
    learned, judged = both("small_real_dataset.json")
    assert (len(learned), len(judged)) == sizes
    assert {d for r in learned for d in r.documents}.isdisjoint(
        d for r in judged for d in r.documents
    )
    names = {r.provenance["dataset"] for r in judged}
    assert len(names) == (4 if "dataset all" in words else 1)
    assert all(r.answer == r.answers[0] and r.answer in r.documents[-1] for r in learned + judged)
    if "squad" in words:
        assert hub == [("rajpurkar/squad", None, "validation")]


def test_squad_from_its_own_file_with_a_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    squad_file(tmp_path / "dev-v1.1.json", articles=12, questions=4)
    teacher = save_tiny_teacher(tmp_path / "teacher")
    words = "--input_file dev-v1.1.json --num_examples 20 --output_file small"
    assert main(shlex.split(words)) == 0
    plain = both("small")
    assert (len(plain[0]), len(plain[1])) == (18, 2)
    # A name without .json has a partner all the same, and is not overwritten by it.
    assert Path("small_eval").is_file()
    more = f"--teacher_model {teacher} --cache_dir cache --teacher_max_new_tokens 4 --no_progress"
    assert main(shlex.split(f"{words} {more} --device cpu")) == 0
    taught = both("small")
    for before, after in zip(plain[0] + plain[1], taught[0] + taught[1], strict=True):
        assert (after.query, after.documents, after.answers) == (
            before.query, before.documents, before.answers,
        )  # fmt: skip
        assert after.answer != before.answer
        assert after.provenance["teacher"]["model"] == str(teacher)


def test_fewer_than_asked_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"q{n}", "answer": "a", "context": f"c{n}"} for n in range(30)]
    write_jsonl(tmp_path / "own.jsonl", rows)
    assert main(shlex.split("--input_file own.jsonl --num_examples 100")) == 0
    learned, judged = both("small_real_dataset.json")
    assert (len(learned), len(judged)) == (27, 3)
    assert "found 30 examples of 100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset squad --split test", "rajpurkar/squad, test: Unknown split 'test' (without"),
        ("--dataset all --input_file a.json", "expected squad=FILE natural_questions=FILE trivia"),
        ("--input_file a.json b.json", "found 2 files, expected one for squad"),
        ("--input_file no.json", "no.json: No such file or directory (--input_file)"),
        ("--input_file bad.jsonl", "bad.jsonl:2: field 'context': found nothing, expected a"),
        ("--num_examples 1", "--num_examples (1) must be at least 2"),
        ("--teacher_model no/such", "model 'no/such' cannot be loaded"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    hub: list[tuple[Any, ...]], words: str, message: str, capsys: Any
) -> None:
    good = {"question": "q", "answers": ["a"], "context": "c"}
    write_jsonl(Path("bad.jsonl"), [good, {"question": "q", "answers": ["a"]}])
    assert main(shlex.split(words)) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not Path("small_real_dataset.json").exists()


def test_without_the_hub_a_file_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main([]) == 2
    error = capsys.readouterr().err
    assert "--input_file: pip install datasets" in error and error.count("\n") == 1
