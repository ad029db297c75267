"""Folders appear whole, are checked against their hashes, and the first writer wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from gazetteer.data.built_folders import build_folder, require_built
from gazetteer.errors import IndexFileError


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
