"""Files that safetensors reads, with the hash that they have, and numbers that begin a page."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gazetteer.errors import IndexFileError
from gazetteer.files import file_digest
from gazetteer.index import tensor_files
from gazetteer.index.file_layout import PAGE_BYTES
from gazetteer.index.tensor_files import DTYPES, find_tensor, write_hashed, write_tensors


@pytest.mark.parametrize("is_mappable", [False, True])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (700, 3), (4,), (0,)], ids=str)
def test_safetensors_reads_what_is_written(
    shape: tuple[int, ...], dtype: torch.dtype, is_mappable: bool, tmp_path: Path
) -> None:
    tensors = {
        "some": torch.randint(0, 100, shape).to(dtype),
        "scales": torch.randn(7),
    }
    found = write_tensors(tmp_path / "file", tensors, is_mappable=is_mappable)
    assert found == file_digest(tmp_path / "file")
    read = load_file(tmp_path / "file")
    assert list(read) == list(tensors) or set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
        place = find_tensor(tmp_path / "file", name)
        assert (place.shape, place.dtype) == (tuple(tensor.shape), tensor.dtype)
        content = (tmp_path / "file").read_bytes()[place.offset :][: tensor.nbytes]
        assert content == tensor.contiguous().view(torch.uint8).numpy().tobytes()
    offset = find_tensor(tmp_path / "file", "some").offset
    assert offset % 8 == 0
    assert (offset == PAGE_BYTES) == is_mappable


def test_a_slice_of_something_larger_is_written_alone(tmp_path: Path) -> None:
    matrix = torch.randn(100, 6)
    write_tensors(tmp_path / "file", {"part": matrix[10:20, ::2]}, is_mappable=False)
    assert torch.equal(load_file(tmp_path / "file")["part"], matrix[10:20, ::2])


def test_large_parts_are_hashed_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK_BYTES", 10)
    parts = [b"", bytes(range(101)), b"abc", memoryview(b"x" * 20)]
    assert write_hashed(tmp_path / "file", parts) == file_digest(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def header(path: Path, text: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changes: object) -> bytes:
    described = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes
    return json.dumps({"rows": described}).encode()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not readable"),
        (b"{", "not readable"),
        (b"[]", "not readable"),
        (b'{"rows": 3}', "not readable"),
        (b"{}", "not readable .'rows' is not in it"),
        (entry(dtype="F64"), "not readable .'F64' is not in it"),
        (entry(shape=[2, "three"]), "not readable"),
        (entry(data_offsets=[0]), "not readable"),
        (entry(shape=[2, 4]), "the place of rows is not inside"),
        (entry(data_offsets=[-24, 0]), "the place of rows is not inside"),
        (entry(data_offsets=[1, 25]), "the place of rows is not inside"),
    ],
)
def test_headers_that_do_not_add_up_are_refused(text: bytes, message: str, tmp_path: Path) -> None:
    path = header(tmp_path / "file", entry(), bytes(24))
    assert find_tensor(path, "rows").shape == (2, 3)
    header(path, text, bytes(24))
    with pytest.raises(IndexFileError, match=f"^{path}: {message}"):
        find_tensor(path, "rows")


@pytest.mark.parametrize("content", [b"", b"\1\2", b"\xff" * 8])
def test_files_without_a_header_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(IndexFileError, match="file: not readable"):
        find_tensor(tmp_path / "file", "rows")
    with pytest.raises(IndexFileError, match="nowhere: not readable"):
        find_tensor(tmp_path / "nowhere", "rows")
