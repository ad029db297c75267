from __future__ import annotations

import itertools
import os
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index.mapped import Stretch, map_stretches, mapped_matrix


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


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two whole pages, one, and half of one: each byte tells its place in all."""
    content = (np.arange(7 * PAGESIZE // 2) % 251).astype(np.uint8).tobytes()
    bounds = [0, 2 * PAGESIZE, 3 * PAGESIZE, len(content)]
    paths = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        paths.append(tmp_path / str(number))
        # What comes before the first page is no part of it.
        paths[-1].write_bytes(b"h" * PAGESIZE + content[start:stop])
    return paths


def whole(path: Path, skipped: int = 0) -> Stretch:
    return Stretch(path, PAGESIZE + skipped, path.stat().st_size - PAGESIZE - skipped)


def numbers(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop).remainder(251).to(torch.uint8)


@pytest.mark.parametrize("skipped", [0, 1, PAGESIZE - 1, PAGESIZE, PAGESIZE + 5, 2 * PAGESIZE - 1])
def test_files_are_mapped_one_after_the_other(files: list[Path], skipped: int) -> None:
    first, *others = files
    mapped = map_stretches([whole(first, skipped), *map(whole, others)])
    assert mapped is not None
    assert torch.equal(mapped, numbers(skipped, 7 * PAGESIZE // 2))
    part = map_stretches([Stretch(first, PAGESIZE + skipped, 1)])
    assert part is not None and part.tolist() == numbers(skipped, skipped + 1).tolist()


def test_files_that_do_not_fill_their_pages_cannot_be_mapped_together(files: list[Path]) -> None:
    first, second, short = map(whole, files)
    assert map_stretches([short, first]) is None
    assert map_stretches([first, whole(files[1], 8)]) is None
    assert map_stretches([first, Stretch(second.path, 0, 8), short]) is None


def test_a_map_outlives_the_names_of_its_files_and_goes_with_the_tensor(files: list[Path]) -> None:
    mapped = map_stretches([whole(path) for path in files])
    assert mapped is not None
    part = mapped[5:]
    replacement = files[0].with_name("new")
    replacement.write_bytes(b"x" * files[0].stat().st_size)
    replacement.replace(files[0])
    files[1].unlink()
    del mapped
    assert torch.equal(part, numbers(5, 7 * PAGESIZE // 2))
    assert str(files[2]) in Path("/proc/self/maps").read_text()
    del part
    maps = Path("/proc/self/maps").read_text()
    assert not any(str(path) in maps for path in files)


def test_nothing_is_read_or_held_before_it_is_looked_at(tmp_path: Path) -> None:
    size = 2**26
    with (tmp_path / "large").open("wb") as handle:
        handle.truncate(size)
    before = resident()
    mapped = map_stretches([Stretch(tmp_path / "large", 0, size)])
    assert mapped is not None
    assert resident() - before < size // 16
    assert int(mapped.sum()) == 0


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE


def test_what_is_written_stays_in_memory(files: list[Path]) -> None:
    before = [path.read_bytes() for path in files]
    stretches = [whole(path) for path in files]
    mapped, other = map_stretches(stretches, is_writable=True), map_stretches(stretches)
    assert mapped is not None and other is not None
    mapped[PAGESIZE - 2 : 3 * PAGESIZE + 2] = 7
    assert (mapped[PAGESIZE - 2 : 3 * PAGESIZE + 2] == 7).all()
    assert [path.read_bytes() for path in files] == before
    assert torch.equal(other, numbers(0, 7 * PAGESIZE // 2))


def test_a_missing_file_and_a_refused_map_are_errors(files: list[Path]) -> None:
    with pytest.raises(FileNotFoundError):
        map_stretches([Stretch(files[0].with_name("none"), 0, 8)])
    before = Path("/proc/self/maps").read_text()
    with pytest.raises(OSError) as caught:
        map_stretches([whole(files[0]), Stretch(files[1].parent, 0, 8)])
    assert caught.value.filename == str(files[1].parent)
    del caught
    assert str(files[0]) not in before
