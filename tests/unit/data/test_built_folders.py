"""Folders appear whole, are checked against their hashes, and the first writer wins."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gazetteer import files, stamps
from gazetteer.data.built_folders import build_folder, require_built
from gazetteer.errors import IndexFileError
from gazetteer.files import MANIFEST, STAMP, replace_manifest


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "built"

    def write(partial: Path) -> None:
        assert not folder.exists()
        (partial / "a").write_text("A")

    build_folder(folder, write)
    require_built(folder, "letters")
    assert (folder / "a").read_text() == "A"
    assert _names(folder.parent) == ["built"]


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def write(partial: Path) -> None:
        (partial / "a").write_text("A")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        build_folder(tmp_path / "built", write)
    assert _names(tmp_path) == []


def test_intact_folder_of_a_faster_process_stays(tmp_path: Path) -> None:
    folder = tmp_path / "built"
    build_folder(folder, lambda partial: (partial / "a").write_text("first"))
    build_folder(folder, lambda partial: (partial / "a").write_text("second"))
    assert (folder / "a").read_text() == "first"
    assert _names(tmp_path) == ["built"]


@pytest.mark.parametrize("content", ["frist", "longer than before", None])
def test_damaged_folder_is_refused_and_replaced(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / "built"
    build_folder(folder, lambda partial: (partial / "a").write_text("first"))
    (folder / "a").unlink()
    if content is not None:
        (folder / "a").write_text(content)
    with pytest.raises(IndexFileError, match=f"{folder}: damaged letters .a "):
        require_built(folder, "letters")
    build_folder(folder, lambda partial: (partial / "a").write_text("second"))
    require_built(folder, "letters")
    assert (folder / "a").read_text() == "second"


def test_folder_without_hashes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match="no letters here"):
        require_built(tmp_path, "letters")


@pytest.fixture
def stamps_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is large, and settled as soon as it is written."""
    monkeypatch.setattr(stamps, "LARGE_BYTES", 0)
    monkeypatch.setattr(stamps, "SETTLED_NS", -1)


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read."""
    read: list[str] = []
    original = files.file_digest

    def counted(path: Path) -> tuple[str, int]:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(files, "file_digest", counted)
    return read


def _built(parent: Path) -> Path:
    folder = parent / "built"
    build_folder(folder, lambda partial: (partial / "a").write_text("first"))
    return folder


@pytest.mark.usefixtures("stamps_at_once")
def test_large_file_is_read_once_while_it_is_unchanged(tmp_path: Path, digests: list[str]) -> None:
    folder = _built(tmp_path)
    digests.clear()
    for _ in range(3):
        require_built(folder, "letters")
    assert digests == ["a"]
    require_built(folder, "letters", is_thorough=True)
    assert digests == ["a", "a"]
    assert _names(folder) == ["a", STAMP, MANIFEST]


def test_small_file_is_read_each_time(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "SETTLED_NS", -1)
    folder = _built(tmp_path)
    digests.clear()
    for _ in range(3):
        require_built(folder, "letters")
    assert digests == ["a"] * 3


def test_file_that_changed_a_moment_ago_gets_no_stamp(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamps, "LARGE_BYTES", 0)
    folder = _built(tmp_path)
    digests.clear()
    for _ in range(2):
        require_built(folder, "letters")
    assert digests == ["a"] * 2
    assert _names(folder) == ["a", MANIFEST]


def _overwrite(path: Path) -> None:
    path.write_text("frist")


def _flip_in_place(path: Path) -> None:
    """A program that hides its traces as well as one can: size, inode and time of writing."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"g")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(path: Path) -> None:
    path.with_name("new").write_text("frist")
    path.with_name("new").replace(path)


def _truncate(path: Path) -> None:
    os.truncate(path, 2)


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.usefixtures("stamps_at_once")
@pytest.mark.parametrize("change", [_overwrite, _flip_in_place, _replace, _truncate, _remove])
def test_stamped_file_that_changed_is_refused(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder = _built(tmp_path)
    require_built(folder, "letters")
    # Further apart than the clock of any local file system ticks.
    time.sleep(0.03)
    change(folder / "a")
    with pytest.raises(IndexFileError, match=f"{folder}: damaged letters .a "):
        require_built(folder, "letters")
    with pytest.raises(IndexFileError, match="damaged letters"):
        require_built(folder, "letters")


@pytest.mark.usefixtures("stamps_at_once")
@pytest.mark.parametrize("stamp", ["", "[]", "null", "{", '{"a": 1}', '{"a": ["", 5, 0, 0, 0]}'])
def test_stamp_of_something_else_is_no_stamp(
    tmp_path: Path, digests: list[str], stamp: str
) -> None:
    folder = _built(tmp_path)
    (folder / STAMP).write_text(stamp)
    digests.clear()
    require_built(folder, "letters")
    require_built(folder, "letters")
    assert digests == ["a"]


@pytest.mark.usefixtures("stamps_at_once")
def test_stamp_is_of_the_hash_that_the_manifest_names(tmp_path: Path) -> None:
    folder = _built(tmp_path)
    require_built(folder, "letters")
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    sha = listed["a"]["sha256"]
    listed["a"]["sha256"] = sha[::-1]
    replace_manifest(folder, listed)
    with pytest.raises(IndexFileError, match="expected " + sha[::-1]):
        require_built(folder, "letters")


@pytest.mark.usefixtures("stamps_at_once")
def test_only_a_thorough_look_finds_what_the_file_system_does_not_know(tmp_path: Path) -> None:
    folder = _built(tmp_path)
    require_built(folder, "letters")
    (folder / "a").write_text("frist")
    # As if the disk had done it: what the stamp says is true of the changed file.
    facts = json.loads((folder / STAMP).read_text())
    found = (folder / "a").stat()
    facts["a"][1:] = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    (folder / STAMP).write_text(json.dumps(facts))
    require_built(folder, "letters")
    with pytest.raises(IndexFileError, match="damaged letters"):
        require_built(folder, "letters", is_thorough=True)


@pytest.mark.usefixtures("stamps_at_once")
def test_folder_that_cannot_be_written_to_is_read_each_time(
    tmp_path: Path, digests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _built(tmp_path)

    def refuse(path: Path, *_: object, **__: object) -> int:
        raise OSError("read-only")

    monkeypatch.setattr(Path, "write_text", refuse)
    digests.clear()
    require_built(folder, "letters")
    require_built(folder, "letters")
    assert digests == ["a", "a"]
