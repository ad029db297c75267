from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gazetteer.errors import IndexFileError
from gazetteer.index.mapped import mapped_matrix


def disk_use(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_matrix_in_a_file_is_like_any_other(tmp_path: Path) -> None:
    matrix = mapped_matrix(tmp_path / "new" / "folder", 50, 3)
    assert matrix.dtype == torch.float32
    assert torch.equal(matrix, torch.zeros(50, 3))
    expected = torch.randn(50, 3)
    matrix[:] = expected
    assert torch.equal(matrix, expected)
    assert matrix[10:20].is_contiguous()


def test_the_file_backs_the_matrix_and_has_no_name(tmp_path: Path) -> None:
    before = mapped_files()
    matrix = mapped_matrix(tmp_path, 50, 3)
    assert disk_use(tmp_path) == []
    assert mapped_files() - before == {str(tmp_path)}
    del matrix
    assert mapped_files() == before


def mapped_files() -> set[str]:
    """Folders of files without a name that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = [line.split(maxsplit=5)[5] for line in lines if line.endswith("(deleted)")]
    return {str(Path(path.removesuffix(" (deleted)")).parent) for path in paths}


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)])
def test_an_empty_matrix_needs_no_file(shape: tuple[int, int], tmp_path: Path) -> None:
    assert mapped_matrix(tmp_path / "none", *shape).shape == shape
    assert not (tmp_path / "none").exists()


def test_a_disk_without_room_is_an_error_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(IndexFileError) as caught:
        mapped_matrix(tmp_path, 10**6, 250)
    assert str(caught.value) == (
        f"{tmp_path}: no file of 1.00 GB for the vectors (No space left on device);"
        " choose another disk with --cache_dir"
    )


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexFileError, match=r"/file: no file of 0\.00 GB"):
        mapped_matrix(tmp_path / "file", 1, 1)
