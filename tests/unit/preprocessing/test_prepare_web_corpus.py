"""Documents to passages; the pipeline itself where datatrove is installed."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import prepare_web_corpus as corpus
import pytest

from gazetteer.data.corpus import cached_passage_store


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def test_a_document_becomes_passages_of_so_many_words() -> None:
    document = SimpleNamespace(id="d", text="a b\nc  d e", metadata={"url": "u", "title": " T x "})
    assert list(corpus.passages_of(document, 2)) == [
        {"id": "d-0", "title": "T x", "text": "a b"},
        {"id": "d-1", "title": "T x", "text": "c d"},
        {"id": "d-2", "title": "T x", "text": "e"},
    ]
    assert list(corpus.passages_of(SimpleNamespace(id="d", text=" \n", metadata={}), 2)) == []


def test_a_file_appears_whole_and_the_same(tmp_path: Path) -> None:
    def failing():
        yield SimpleNamespace(id="d", text="a \ud800 ü", metadata={"title": 3})
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        corpus.write_passages(failing(), 3, folder=str(tmp_path), words=9)
    assert list(tmp_path.glob("passages.*")) == []
    corpus.write_passages([], 3, folder=str(tmp_path), words=9)
    assert list(tmp_path.glob("passages.*")) == []
    contents = set()
    for _ in range(2):
        document = SimpleNamespace(id="d", text="a \ud800 ü", metadata={"title": 3})
        corpus.write_passages([document], 3, folder=str(tmp_path), words=9)
        contents.add((tmp_path / "passages.000003.jsonl.gz").read_bytes())
    assert len(contents) == 1
    found = lines(tmp_path / "passages.000003.jsonl.gz")
    assert found == [{"id": "d-0", "title": "", "text": "a ? ü"}]


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--input", str(tmp_path / "no"), "--format", "jsonl", "--output", str(tmp_path / "o")]
    assert corpus.main(words) == 2
    assert "no: no such folder (--input)" in capsys.readouterr().err


def test_tasks_of_datatrove_write_a_corpus_once(tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    (tmp_path / "in").mkdir()
    for number in range(3):
        text = " ".join(f"w{number}x{word}" for word in range(250))
        row = {"id": f"doc{number}", "text": text, "metadata": {"title": f"T{number}"}}
        (tmp_path / "in" / f"{number}.jsonl").write_text(json.dumps(row) + "\n")
    program = Path(corpus.__file__)
    words = ["--input", tmp_path / "in", "--format", "jsonl", "--output", tmp_path / "out"]
    command = [sys.executable, program, *words, "--tasks", "2", "--workers", "1"]
    written = []
    for _ in range(2):
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        files = sorted((tmp_path / "out").glob("passages.*"))
        written.append([(file.name, file.stat().st_mtime_ns) for file in files])
    assert written[0] == written[1] and len(written[0]) == 2
    files = sorted((tmp_path / "out").glob("passages.*"))
    store = cached_passage_store(files, tmp_path / "cache")
    assert store.count == 9
    assert sum(len(row["text"].split()) for row in store.records(range(9))) == 3 * 250
