"""download_corpus, download_model and download_index put the files of a key below the key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import download_corpus
import download_index
import download_model
import pytest
import release_files

from tests.support.file_server import FileServer, running


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    with running() as state:
        monkeypatch.setattr(release_files, "RELEASE", state.url("/atlas"))
        yield state


@pytest.mark.parametrize(
    ("program", "flag", "key", "names"),
    [
        (
            download_corpus,
            "--corpus",
            "corpora/wiki/enwiki-dec2018",
            ["infobox.jsonl", "text-list-100-sec.jsonl"],
        ),
        (download_model, "--model", "models/atlas_nq/xxl", ["model.pth.tar"]),
        (
            download_index,
            "--index",
            "indices/atlas/wiki/base",
            ["embeddings.0.pt", "embeddings.1.pt", "passages.0.pt", "passages.1.pt"],
        ),
    ],
)
def test_the_files_of_a_key(server, monkeypatch, tmp_path: Path, program, flag, key, names) -> None:
    monkeypatch.setattr(download_index, "INDEX_FILES", release_files.INDEX_FILES[:4])
    for name in names:
        server.files[f"/atlas/{key}/{name}"] = name.encode()
    assert program.main([flag, key, "--output_directory", str(tmp_path)]) == 0
    found = tmp_path / key
    assert sorted(p.name for p in found.iterdir()) == names
    assert all((found / name).read_text() == name for name in names)


def test_a_missing_file_is_one_line(server, tmp_path: Path, capsys) -> None:
    key = "models/atlas/base"
    assert download_model.main(["--model", key, "--output_directory", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("download_model: http://127.0.0.1")
    assert "404" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("key", ["models/atlas/base/../..", "corpora/wiki/enwiki-dec2018", ""])
def test_other_keys_are_refused(tmp_path: Path, capsys, key: str) -> None:
    with pytest.raises(SystemExit):
        download_model.main(["--model", key, "--output_directory", str(tmp_path)])
    assert "models/atlas/base" in capsys.readouterr().err


def test_the_keys_are_those_of_the_release() -> None:
    assert len(release_files.CORPORA) == 5
    assert len(release_files.MODELS) == len(release_files.INDICES) == 8
    numbers = range(128)
    expected = {f"{kind}.{n}.pt" for kind in ("embeddings", "passages") for n in numbers}
    assert set(release_files.INDEX_FILES) == expected
    assert len(release_files.INDEX_FILES) == 256
