"""Small made-up inputs in the published formats become the files that training reads."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import prepare_fever
import prepare_mmlu
import prepare_qa
import prepare_templama
import pytest

from gazetteer import downloading
from gazetteer.tasks import TASKS
from tests.support.file_server import FileServer, running

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloading, "known_files", dict)
    with running() as state:
        yield state


def lines(*rows: Mapping[str, Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def tar(files: Mapping[str, bytes], mode: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def examples(task: str, path: Path, **settings: Any) -> list[Any]:
    made = TASKS[task](**settings)
    generator = random.Random(0)
    return [made.example(row, number, generator) for number, row in enumerate(rows(path))]


# --- NQ and TriviaQA


def trivia(number: int, value: str, **more: Any) -> dict[str, Any]:
    answer = {"Value": value, "Aliases": [value, f"alias {number}"], "Type": "WikipediaEntity"}
    return {"Question": f"trivia {number}?", "QuestionId": f"tc_{number}", "Answer": answer, **more}


def qa_files() -> dict[str, bytes]:
    nq = [{"question": f"q{n}", "answer": [f"a{n}", f"b{n}"]} for n in range(100)]
    train = [trivia(n, "SHOUTED NAME" if n == 1 else f"Value {n}") for n in range(80)]
    web = "triviaqa-unfiltered/unfiltered-web"
    index = {
        "dataindex/NQ.train.idx.json": list(range(90)),
        "dataindex/NQ.dev.idx.json": [99, 95],
        "dataindex/TQA.train.idx.json": [1, 0, 2],
        "dataindex/TQA.dev.idx.json": [79],
    }
    return {
        "NQ-open.train.jsonl": lines(*nq),
        "NQ-open.dev.jsonl": lines({"question": "held out é", "answer": ["yes"]}),
        "dataindex.tar.gz": tar({k: json.dumps(v).encode() for k, v in index.items()}, "w:gz"),
        "triviaqa-unfiltered.tar.gz": tar(
            {
                f"{web}-train.json": json.dumps({"Data": train}).encode(),
                f"{web}-dev.json": json.dumps({"Data": [trivia(500, "X1")]}).encode(),
                f"{web}-test-without-answers.json": b'{"Data": [{"Question": "?"}]}',
            },
            "w:gz",
        ),
    }


def serve_qa(server: FileServer, monkeypatch: pytest.MonkeyPatch, **changes: bytes) -> None:
    files = qa_files() | {name.replace("__", "."): content for name, content in changes.items()}
    server.files.update({f"/{name}": content for name, content in files.items()})
    monkeypatch.setattr(prepare_qa, "SOURCES", {name: server.url(f"/{name}") for name in files})


def test_qa_in_the_files_of_the_readme(server, monkeypatch, tmp_path) -> None:
    serve_qa(server, monkeypatch)
    assert prepare_qa.main(["--output_directory", str(tmp_path)]) == 0
    nq, tqa = tmp_path / "data" / "nq_data", tmp_path / "data" / "triviaqa_data"
    assert len(rows(nq / "train.jsonl")) == 90
    assert rows(nq / "dev.jsonl") == [
        {"question": "q99", "answers": ["a99", "b99"]},
        {"question": "q95", "answers": ["a95", "b95"]},
    ]
    assert rows(nq / "test.jsonl") == [{"question": "held out é", "answers": ["yes"]}]
    shots = rows(nq / "train.64-shot.jsonl")
    assert len({row["question"] for row in shots}) == 64
    assert [row for row in rows(nq / "train.jsonl") if row in shots] == shots
    assert rows(tqa / "train.jsonl")[0] == {
        "question": "trivia 1?",
        "answers": ["SHOUTED NAME", "alias 1"],
        "target": "Shouted Name",
    }
    assert [row["target"] for row in rows(tqa / "train.jsonl")[1:]] == ["Value 0", "Value 2"]
    assert rows(tqa / "dev.jsonl")[0]["question"] == "trivia 79?"
    assert rows(tqa / "test.jsonl")[0]["target"] == "X1"
    assert len(rows(tqa / "train.64-shot.jsonl")) == 3
    assert all(example is not None for example in examples("qa", tqa / "train.jsonl"))


def test_the_same_seed_chooses_the_same_64(server, monkeypatch, tmp_path) -> None:
    serve_qa(server, monkeypatch)
    chosen = {}
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        prepare_qa.main(["--output_directory", str(tmp_path / name), "--seed", str(seed)])
        chosen[name] = (tmp_path / name / "data/nq_data/train.64-shot.jsonl").read_bytes()
    assert chosen["one"] == chosen["two"] != chosen["three"]


def test_a_folder_called_data_is_the_data_folder(server, monkeypatch, tmp_path) -> None:
    serve_qa(server, monkeypatch)
    prepare_qa.main(["--output_directory", f"{tmp_path}/data/"])
    assert (tmp_path / "data" / "nq_data" / "train.jsonl").is_file()
    asked = len(server.requests)
    prepare_qa.main(["--output_directory", str(tmp_path)])
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {"NQ-open__train__jsonl": b'{"question": "q"}\n'},
            "NQ-open.train.jsonl:1: field 'answer'",
        ),
        ({"NQ-open__dev__jsonl": b"<html>"}, "NQ-open.dev.jsonl:1: "),
        (
            {"dataindex__tar__gz": tar({"NQ.train.idx.json": b"[0]"}, "w:gz")},
            "found no list NQ.dev",
        ),
        ({"dataindex__tar__gz": tar({"NQ.train.idx.json": b"[1.5]"}, "w:gz")}, "list of line num"),
        ({"dataindex__tar__gz": tar({"NQ.train.idx.json": b"[-1]"}, "w:gz")}, "list of line num"),
        ({"dataindex__tar__gz": tar({"NQ.train.idx.json": b"{"}, "w:gz")}, "no JSON"),
        ({"triviaqa-unfiltered__tar__gz": tar({"x": b""}, "w:gz")}, "unfiltered-web-train.json"),
    ],
)
def test_malformed_qa_is_one_line(server, monkeypatch, tmp_path, capsys, changes, shown) -> None:
    serve_qa(server, monkeypatch, **changes)
    assert prepare_qa.main(["--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare_qa: ")
    assert shown in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"Data": {}},
        {"Data": [None]},
        {"Data": [{"Question": "q"}]},
        {"Data": [{"Question": 1, "Answer": {"Value": "v", "Aliases": ["v"]}}]},
        {"Data": [{"Question": "q", "Answer": {"Value": "v", "Aliases": "v"}}]},
        {"Data": [{"Question": "q", "Answer": {"Value": "v", "Aliases": []}}]},
        {"Data": [{"Question": "\ud800", "Answer": {"Value": "v", "Aliases": ["v"]}}]},
    ],
)
def test_malformed_triviaqa_is_one_line(server, monkeypatch, tmp_path, capsys, document) -> None:
    name = "triviaqa-unfiltered/unfiltered-web-train.json"
    packed = tar({name: json.dumps(document).encode()}, "w:gz")
    serve_qa(server, monkeypatch, **{"triviaqa-unfiltered__tar__gz": packed})
    assert prepare_qa.main(["--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{name}: " in error
    assert error.count("\n") == 1


def test_row_numbers_fit_and_do_not_overlap(server, monkeypatch, tmp_path, capsys) -> None:
    for train, dev, shown in (
        ([0], [0], "row 0 of NQ is in train and dev"),
        ([0], [100], "row 100"),
    ):
        index = {"NQ.train.idx.json": train, "NQ.dev.idx.json": dev}
        index |= {"TQA.train.idx.json": [0], "TQA.dev.idx.json": [1]}
        packed = tar({k: json.dumps(v).encode() for k, v in index.items()}, "w:gz")
        serve_qa(server, monkeypatch, dataindex__tar__gz=packed)
        assert prepare_qa.main(["--output_directory", str(tmp_path / shown)]) == 2
        assert shown in capsys.readouterr().err


# --- FEVER


def serve_fever(server: FileServer, monkeypatch: pytest.MonkeyPatch, **changes: bytes) -> None:
    evidence = [[[92206, 104971, "Nikolaj_Coster-Waldau", 7]]]
    labels = ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO")
    train = [
        {
            "id": n,
            "verifiable": "VERIFIABLE",
            "label": labels[n % 3],
            "claim": f"claim {n}",
            "evidence": evidence,
        }
        for n in range(70)
    ]
    files = {
        "train": lines(*train),
        "dev": lines(train[0]),
        "test": lines({"id": 113501, "claim": "Grease had bad reviews."}),
    } | changes
    server.files.update({f"/{name}": content for name, content in files.items()})
    monkeypatch.setattr(prepare_fever, "SOURCES", {name: server.url(f"/{name}") for name in files})


def test_fever_in_the_files_of_the_readme(server, monkeypatch, tmp_path) -> None:
    serve_fever(server, monkeypatch)
    assert prepare_fever.main(["--output_directory", str(tmp_path)]) == 0
    folder = tmp_path / "data" / "fever_data"
    assert sorted(p.name for p in folder.iterdir()) == [
        "dev.jsonl",
        "test.jsonl",
        "train-64.jsonl",
        "train.jsonl",
    ]
    assert len(rows(folder / "train.jsonl")) == 70
    assert len({row["id"] for row in rows(folder / "train-64.jsonl")}) == 64
    assert rows(folder / "test.jsonl") == [{"id": 113501, "claim": "Grease had bad reviews."}]
    made = examples("fever", folder / "train.jsonl")
    assert [example.answers for example in made[:3]] == [("true",), ("false",), ("maybe",)]


@pytest.mark.parametrize(
    "line",
    [
        {"claim": "c"},
        {"claim": "c", "label": "MAYBE"},
        {"label": "SUPPORTS"},
        {"claim": 3, "label": "SUPPORTS"},
    ],
)
def test_malformed_fever_is_one_line(server, monkeypatch, tmp_path, capsys, line) -> None:
    serve_fever(server, monkeypatch, dev=lines(line))
    assert prepare_fever.main(["--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "fever-dev.jsonl:1: field" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "data" / "fever_data" / "dev.jsonl").exists()


# --- TempLAMA


def cloze(query: str, year: str, *names: str) -> dict[str, Any]:
    answer = [{"wikidata_id": "Q1", "name": name} for name in names]
    return {
        "query": query,
        "answer": answer,
        "date": year,
        "id": f"Q_P54_{year}",
        "relation": "P54",
    }


def serve_templama(server, monkeypatch, *questions: Mapping[str, Any]) -> None:
    sources = {split: server.url(f"/{split}") for split in ("train", "valid", "test")}
    server.files.update({f"/{split}": lines(*questions) for split in sources})
    monkeypatch.setattr(prepare_templama, "SOURCES", sources)


def test_templama_keeps_what_changed(server, monkeypatch, tmp_path) -> None:
    moved = [
        cloze("A plays for _X_.", "2017", "Old", "Older", "Old"),
        cloze("A plays for _X_.", "2020", "New"),
    ]
    serve_templama(
        server,
        monkeypatch,
        *moved,
        cloze("A plays for _X_.", "2019", "Between"),
        cloze("B plays for _X_.", "2017", "Same", "Left"),
        cloze("B plays for _X_.", "2020", "Same"),
        cloze("C plays for _X_.", "2017", "Gone"),
        cloze("D plays for _X_.", "2020", "Come"),
        cloze("E plays for _X_.", "2017", "One"),
        cloze("E plays for _X_.", "2017", "Namesake"),
        cloze("E plays for _X_.", "2020", "Two"),
    )
    assert prepare_templama.main(["--output_directory", str(tmp_path)]) == 0
    folder = tmp_path / "data" / "templama_data"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        f"temp_lama.{split}.{year}.jsonl"
        for split in ("train", "valid", "test")
        for year in (2017, 2020)
    )
    for split in ("train", "valid", "test"):
        then = rows(folder / f"temp_lama.{split}.2017.jsonl")
        now = rows(folder / f"temp_lama.{split}.2020.jsonl")
        assert [row["question"] for row in then] == [row["question"] for row in now]
        assert [row["answers"] for row in then] == [["Old", "Older"], ["One", "Namesake"]]
        assert [row["answers"] for row in now] == [["New"], ["Two"]]
        assert then[0]["question"] == "A plays for <extra_id_0>."
        assert then[0]["metadata"] == {"original_instance": moved[0]}
    made = examples("qa", folder / "temp_lama.test.2020.jsonl", prompt="{question}")
    assert made[0].query == "A plays for <extra_id_0>."


@pytest.mark.parametrize(
    "line",
    [
        {**cloze("A _X_", "2017", "a"), "answer": "a"},
        {**cloze("A _X_", "2017", "a"), "answer": []},
        {**cloze("A _X_", "2017", "a"), "answer": [{"name": None}]},
        cloze("A", "2017", "a"),
        {"query": "A _X_", "answer": []},
    ],
)
def test_malformed_templama_is_one_line(server, monkeypatch, tmp_path, capsys, line) -> None:
    serve_templama(server, monkeypatch, line)
    assert prepare_templama.main(["--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "templama-train.jsonl:1: " in error
    assert error.count("\n") == 1


# --- MMLU


def table(*questions: tuple[str, ...]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(questions)
    return text.getvalue().encode()


def question(name: str, letter: str = "B") -> tuple[str, ...]:
    return (f'{name}, with "quotes"\nand lines', "1", "2", "3", "4", letter)


def serve_mmlu(server: FileServer, monkeypatch: pytest.MonkeyPatch, **changes: bytes) -> None:
    files = {"data/README.txt": b"read me", "data/possibly_contaminated_urls.txt": b""}
    for split in ("dev", "val", "test"):
        for subject in ("virology", "anatomy"):
            files[f"data/{split}/{subject}_{split}.csv"] = table(
                *(question(f"{subject} {split} {n}") for n in range(5 if split == "dev" else 2))
            )
    files["data/auxiliary_train/race.csv"] = table(*(question(f"race {n}") for n in range(5003)))
    files["data/auxiliary_train/arc_easy.csv"] = table(question("arc", "D"))
    files |= {name.replace("__", "/") + ".csv": content for name, content in changes.items()}
    server.files["/data.tar"] = tar(files, "w")
    monkeypatch.setattr(prepare_mmlu, "SOURCE", server.url("/data.tar"))


def test_mmlu_in_three_settings(server, monkeypatch, tmp_path) -> None:
    serve_mmlu(server, monkeypatch)
    assert prepare_mmlu.main(["--output_directory", str(tmp_path)]) == 0
    folder = tmp_path / "data" / "mmlu_data"
    few = folder / "5-shot"
    assert rows(few / "individual_train" / "anatomy.5-shot-train.jsonl")[0] == {
        "question": 'anatomy dev 0, with "quotes"\nand lines',
        "options": {"A": "1", "B": "2", "C": "3", "D": "4"},
        "answer": "B",
        "dataset": "anatomy_dev",
    }
    assert len(rows(few / "individual_train" / "virology.5-shot-train.jsonl")) == 5
    assert len(rows(few / "individual_valid" / "virology.val.jsonl")) == 2
    assert rows(few / "individual_test" / "virology.test.jsonl")[0]["dataset"] == "virology_test"
    multi = rows(folder / "5-shot-multitask" / "train.jsonl")
    assert [row["dataset"] for row in multi] == ["anatomy_dev"] * 5 + ["virology_dev"] * 5
    full, kept = (
        rows(folder / "full" / "train.jsonl"),
        rows(folder / "full" / "auxillary_valid.jsonl"),
    )
    assert len(kept) == 5000
    assert full[-10:] == multi
    assert len(full) == 4 + 10
    asked = [row["question"] for row in (*full[:-10], *kept)]
    assert len(set(asked)) == 5004
    assert asked != sorted(asked)
    for setting in ("5-shot", "5-shot-multitask", "full"):
        datasets = [row["dataset"] for row in rows(folder / setting / "combined_test.jsonl")]
        assert datasets == ["anatomy_test"] * 2 + ["virology_test"] * 2
        assert len(rows(folder / setting / "combined_valid.jsonl")) == 4
    made = examples("multiple_choice", few / "combined_test.jsonl")
    assert made[0].answers == ("B",)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"q,1,2,3,4,E\n", ":1: found 6 columns ending in 'E'"),
        (b"q,1,2,3,B\n", ":1: found 5 columns"),
        (b"q,1,2,3,4,B\n\n", ":2: found 0 columns"),
        (b'q,1,2,3,4,B\n"open', "unexpected end"),
        (b"\xff,1,2,3,4,B\n", "utf-8"),
    ],
)
def test_malformed_mmlu_is_one_line(server, monkeypatch, tmp_path, capsys, content, shown) -> None:
    serve_mmlu(server, monkeypatch, data__test__anatomy_test=content)
    assert prepare_mmlu.main(["--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"data/test/anatomy_test.csv{':' if shown[0] == ':' else ''}" in error
    assert shown in error
    assert error.count("\n") == 1


def test_mmlu_names_what_is_missing(server, monkeypatch, tmp_path, capsys) -> None:
    serve_mmlu(server, monkeypatch, data__val__law_val=table(question("x")))
    assert prepare_mmlu.main(["--output_directory", str(tmp_path / "a")]) == 2
    assert "law is not in both val/ and test/" in capsys.readouterr().err
    server.files["/data.tar"] = tar({"data/dev/x_dev.csv": table(question("x"))}, "w")
    assert prepare_mmlu.main(["--output_directory", str(tmp_path / "b")]) == 2
    assert "found no val/*.csv" in capsys.readouterr().err


# --- as programs


@pytest.mark.parametrize("name", ["qa", "fever", "templama", "mmlu"])
def test_programs_explain_themselves(name: str) -> None:
    program = ROOT / "preprocessing" / f"prepare_{name}.py"
    shown = subprocess.run(
        [sys.executable, str(program), "--help"], capture_output=True, text=True, check=True
    )
    assert "--output_directory" in shown.stdout


def test_a_folder_that_cannot_be_made_is_one_line(server, monkeypatch, tmp_path, capsys) -> None:
    serve_fever(server, monkeypatch)
    (tmp_path / "data").write_text("a file")
    assert prepare_fever.main(["--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare_fever: ")
    assert error.count("\n") == 1
