from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from gazetteer import files
from gazetteer.errors import CheckpointError
from gazetteer.files import (
    MANIFEST,
    file_digest,
    find_damage,
    replace_json,
    require_intact,
    sync,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with a file in a subfolder, and an empty one."""
    (tmp_path / "reader").mkdir()
    (tmp_path / "reader" / "model.bin").write_bytes(bytes(range(200)))
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "empty").touch()
    write_manifest(tmp_path)
    return tmp_path


@pytest.mark.parametrize("content", [b"", b"abc", bytes(3_000_000)])
def test_a_digest_is_sha256_and_size(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert file_digest(path) == (hashlib.sha256(content).hexdigest(), len(content))


def test_files_and_folders_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(files.os, "fsync", synced.append)
    (tmp_path / "file").touch()
    sync(tmp_path / "file")
    sync(tmp_path)
    assert len(synced) == 2
    # Nothing stays open.
    for descriptor in synced:
        with pytest.raises(OSError):
            files.os.fstat(descriptor)


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_json(path, {"name": "Zürich", "step": 1})
    replace_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_cannot_be_written_leaves_the_old(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_json(path, {"step": 1})
    with pytest.raises(TypeError):
        replace_json(path, {"step": object()})
    assert json.loads(path.read_text()) == {"step": 1}


def test_a_kill_before_the_move_leaves_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.json"
    replace_json(path, {"step": 1})

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "sync", killed)
    with pytest.raises(KeyboardInterrupt):
        replace_json(path, {"step": 2})
    assert json.loads(path.read_text()) == {"step": 1}
    monkeypatch.undo()
    replace_json(path, {"step": 3})
    assert list(tmp_path.iterdir()) == [path]


def test_the_manifest_names_every_file_but_itself(folder: Path) -> None:
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert list(listed) == ["empty", "reader/model.bin", "state.json"]
    assert listed["state.json"] == {
        "bytes": 2,
        "sha256": hashlib.sha256(b"{}").hexdigest(),
    }
    write_manifest(folder)
    assert json.loads((folder / MANIFEST).read_text())["files"] == listed


def test_every_file_is_synced_before_the_manifest_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / MANIFEST).unlink()
    synced: list[str] = []

    def record(path: Path) -> None:
        assert not (folder / MANIFEST).exists() or path == folder
        synced.append(path.name)

    monkeypatch.setattr(files, "sync", record)
    write_manifest(folder)
    inside = ["empty", "model.bin", "state.json", "reader"]
    assert synced == [*inside, f".{MANIFEST}.new", folder.name]


def test_an_intact_folder_has_no_damage(folder: Path) -> None:
    (folder / "notes.txt").write_text("somebody's own")
    assert find_damage(folder) is None
    require_intact(folder)


@pytest.mark.parametrize("place", [0, 100, 199])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_found(place: int, bit: int, folder: Path) -> None:
    path = folder / "reader" / "model.bin"
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)
    damage = find_damage(folder)
    assert damage is not None
    assert damage.startswith("reader/model.bin has SHA-256 ")
    with pytest.raises(CheckpointError, match=f"^{folder}: reader/model.bin has SHA-256 .*expect"):
        require_intact(folder)


@pytest.mark.parametrize("content", [b"", bytes(199), bytes(201)])
def test_a_file_of_another_size_is_found(content: bytes, folder: Path) -> None:
    (folder / "reader" / "model.bin").write_bytes(content)
    assert find_damage(folder) == f"reader/model.bin has {len(content)} bytes, expected 200"


def test_a_missing_file_is_found(folder: Path) -> None:
    (folder / "empty").unlink()
    assert find_damage(folder) == "empty is missing"
    (folder / "empty").mkdir()
    assert find_damage(folder) == "empty is missing"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"files": []}',
        b'{"files": {"empty": 1}}',
        b'{"files": {"empty": {}}}',
        b'{"files": {"empty": {"bytes": 0}}}',
    ],
)
def test_a_damaged_manifest_is_found(content: bytes, folder: Path) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"^{folder}: {MANIFEST} is not readable: .+$"):
        require_intact(folder)


def test_a_flipped_bit_in_the_manifest_is_found(folder: Path) -> None:
    content = (folder / MANIFEST).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (folder / MANIFEST).write_bytes(damaged)
        assert str(find_damage(folder)).startswith(f"{MANIFEST} is not readable: "), place


def test_a_manifest_of_an_earlier_version_has_no_hash_of_its_own(folder: Path) -> None:
    document = json.loads((folder / MANIFEST).read_text())
    del document[files.CHECKSUM]
    replace_json(folder / MANIFEST, document)
    assert find_damage(folder) is None


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"no checkpoint here \({MANIFEST} is missing\)"):
        require_intact(tmp_path)
