"""Atlas's own files: read whatever their size, written as Atlas reads them, and never run."""

from __future__ import annotations

import os
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.errors import IndexFileError
from gazetteer.index.atlas_files import (
    atlas_passages,
    atlas_vectors,
    open_atlas_folder,
    read_atlas_passages,
    write_atlas_folder,
)
from gazetteer.index.torch_files import open_matrix
from gazetteer.index.vector_sources import VectorFile, VectorSource
from tests.support import tiny_data

DIM, COUNT = 8, 10


def columns(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(DIM, count, generator=generator).half()


def as_atlas_keeps_them(passages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Sections merged into titles, and still there."""
    kept = [dict(passage) for passage in passages]
    for passage in kept:
        if passage.get("section"):
            passage["title"] = f"{passage['title']}: {passage['section']}"
    return kept


def save_like_atlas(folder: Path, sizes: list[int], *, clone: bool = False) -> Tensor:
    """Pairs of files with so many passages; slices drag their storage along unless cloned."""
    folder.mkdir(exist_ok=True)
    matrix, passages = columns(sum(sizes)), as_atlas_keeps_them(tiny_data.passages(sum(sizes)))
    first = 0
    for number, size in enumerate(sizes):
        part = matrix[:, first : first + size]
        torch.save(part.clone() if clone else part, folder / f"embeddings.{number}.pt")
        with (folder / f"passages.{number}.pt").open("wb") as file:
            pickle.dump(passages[first : first + size], file, protocol=4)
        first += size
    return matrix


def whole(source: VectorSource) -> Tensor:
    return source.rows(range(source.count), source.dtype)


@pytest.mark.parametrize("clone", [True, False], ids=["cloned", "oversized"])
@pytest.mark.parametrize("sizes", [[10], [4, 4, 2], [3, 3, 3, 1], [5, 0, 5]], ids=str)
def test_embeddings_and_passages_come_back(sizes: list[int], clone: bool, tmp_path: Path) -> None:
    matrix = save_like_atlas(tmp_path, sizes, clone=clone)
    shards = open_atlas_folder(tmp_path)
    vectors = atlas_vectors(shards)
    assert [file.rows for file in vectors.files] == sizes
    assert vectors.dtype == torch.float16
    assert torch.equal(whole(vectors), matrix.T)
    for start in range(COUNT + 1):
        rows = vectors.rows(range(start, COUNT), torch.float32)
        assert torch.equal(rows, matrix.T[start:].float())
    store = write_passages(atlas_passages(shards), tmp_path / "store")
    direct = write_passages(tiny_data.passages(COUNT), tmp_path / "direct")
    assert store.fingerprint == direct.fingerprint


def test_a_slice_of_a_large_storage_is_read_alone(tmp_path: Path) -> None:
    matrix = torch.zeros(256, 100_000, dtype=torch.float16)
    matrix[:, 500:510] = torch.arange(2560).view(256, 10)
    path = tmp_path / "embeddings.0.pt"
    torch.save(matrix[:, 500:510], path)
    assert path.stat().st_size > 51_000_000
    tracemalloc.start()
    saved = open_matrix(path)
    vectors = saved.vectors(range(10))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000
    assert (saved.bytes, saved.storage_bytes) == (256 * 10 * 2, 256 * 100_000 * 2)
    assert torch.equal(vectors, matrix[:, 500:510].T)


def test_reading_touches_nothing_but_the_slice(tmp_path: Path) -> None:
    """With the rest of the storage cut out of the file (a hole), the slice is still right."""
    matrix = columns(COUNT)
    path = tmp_path / "embeddings.0.pt"
    torch.save(matrix[2:4], path)
    saved = open_matrix(path)
    content = bytearray(path.read_bytes())
    begin = content.index(matrix.numpy().tobytes())
    row_bytes = COUNT * 2
    for place in (*range(2 * row_bytes), *range(4 * row_bytes, DIM * row_bytes)):
        content[begin + place] = 0xFF
    path.write_bytes(content)
    assert torch.equal(saved.vectors(range(COUNT)), matrix[2:4].T)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda matrix: matrix.T.contiguous().T,
    "every other column": lambda matrix: matrix[:, ::2],
    "every third row": lambda matrix: matrix[1::3],
    "one column": lambda matrix: matrix[:, 3:4],
    "one row": lambda matrix: matrix[3:4],
    "no columns": lambda matrix: matrix[:, 4:4],
    "float32": lambda matrix: matrix.float(),
    "bfloat16": lambda matrix: matrix.bfloat16()[:, 1:],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_a_matrix_is_read(
    layout: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    matrix = layout(columns(COUNT))
    torch.save(matrix, tmp_path / "x.pt")
    saved = open_matrix(tmp_path / "x.pt")
    assert (saved.shape, saved.dtype) == (tuple(matrix.shape), matrix.dtype)
    assert torch.equal(saved.vectors(range(matrix.shape[1])), matrix.T)


def test_a_tensor_that_lay_on_a_gpu_is_read_without_one(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(columns(COUNT), path)
    rewrite_pickle(path, lambda content: content.replace(b"\x03\0\0\0cpu", b"\x06\0\0\0cuda:3"))
    assert torch.equal(open_matrix(path).vectors(range(COUNT)), columns(COUNT).T)


def rewrite_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle inside a file of torch.save and leave the rest."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            is_pickle = info.filename.endswith("/data.pkl")
            changed = change(content) if is_pickle else content
            assert not is_pickle or changed != content
            archive.writestr(info.filename, changed)


class Trap:
    """Runs a command when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._flag}",)


def refused(folder: Path) -> str:
    """The one line with which a folder is refused, whichever file it is for."""
    with pytest.raises(IndexFileError) as caught:
        list(atlas_passages(open_atlas_folder(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("saved_by", ["pickle", "torch"])
@pytest.mark.parametrize("name", ["embeddings.1.pt", "passages.1.pt"])
def test_code_in_either_file_is_named_and_does_not_run(
    name: str, saved_by: str, tmp_path: Path
) -> None:
    save_like_atlas(tmp_path, [4, 4, 2])
    content = [Trap(tmp_path / "ran"), {"text": "t"}]
    path = tmp_path / name
    if saved_by == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    message = refused(tmp_path)
    assert message.startswith(f"{path}: ")
    if saved_by == "torch" or name.startswith("passages"):
        assert "refers to posix.system" in message
    assert not (tmp_path / "ran").exists()


TRICKS = {
    "another function of torch": (b"_rebuild_tensor_v2", b"_import_dotted_name"),
    "another module": (b"torch._utils\n_rebuild_tensor_v2", b"os\nsystem"),
    "nested name": (b"torch._utils\n_rebuild_tensor_v2", b"torch\n_utils.os.system"),
    "another storage": (b"torch\nHalfStorage", b"builtins\nexec"),
    "another dict": (b"collections\nOrderedDict", b"subprocess\nPopen"),
    "typed storage": (b"torch\nHalfStorage", b"torch.storage\n_load_from_bytes"),
}


@pytest.mark.parametrize(("old", "new"), TRICKS.values(), ids=TRICKS.keys())
def test_a_matrix_that_names_anything_else_is_refused(
    old: bytes, new: bytes, tmp_path: Path
) -> None:
    save_like_atlas(tmp_path, [10])
    path = tmp_path / "embeddings.0.pt"
    rewrite_pickle(path, lambda content: content.replace(old, new))
    name = new.replace(b"\n", b".").decode().split(".")[-1]
    assert re.match(
        rf"{path}: refers to [\w.]*{name}, expected plain data only$", refused(tmp_path)
    )


LIES = {
    "longer than its storage": (b"K\x0a\x86", b"K\x7f\x86"),
    "begins behind its storage": (b"QK\0", b"QK\x7f"),
    "negative offset": (b"QK\0", b"QJ\xff\xff\xff\xff"),
    "negative stride": (b"K\x0aK\x01\x86", b"K\x0aJ\xff\xff\xff\xff\x86"),
    "wide stride": (b"K\x0aK\x01\x86", b"K\x0bK\x01\x86"),
    "many vectors in few numbers": (b"K\x08K\x0a\x86", b"K\x08J\xff\xff\xff\x7f\x86"),
    "one dimension": (b"K\x08K\x0a\x86", b"K\x50\x85"),
    "a storage that is not there": (b"X\x01\0\0\0" + b"0", b"X\x01\0\0\0" + b"7"),
    "a storage outside": (b"X\x01\0\0\0" + b"0", b"X\x04\0\0\0" + b"../x"),
    "a call of a storage": (b"collections\nOrderedDict", b"torch\nHalfStorage"),
}


@pytest.mark.parametrize(("old", "new"), LIES.values(), ids=LIES.keys())
def test_a_matrix_that_lies_about_its_storage_is_refused(
    old: bytes, new: bytes, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    save_like_atlas(tmp_path, [10])
    path = tmp_path / "embeddings.0.pt"
    rewrite_pickle(path, lambda content: content.replace(old, new, 1))
    if "a call of a storage" in request.node.name:
        # Symbols are never called, so this changes nothing.
        assert torch.equal(whole(atlas_vectors(open_atlas_folder(tmp_path))), columns(10).T)
    else:
        assert refused(tmp_path).startswith(f"{path}: not a readable tensor (")


@pytest.mark.parametrize("name", ["embeddings.1.pt", "passages.1.pt"])
def test_a_file_cut_short_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    save_like_atlas(tmp_path, [4, 4, 2])
    path = tmp_path / name
    content = path.read_bytes()
    for size in {*range(0, len(content), 29), len(content) - 1}:
        path.write_bytes(content[:size])
        assert refused(tmp_path).startswith(f"{path}: ")


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for value, reason in [
        ([1, 2], "expected one matrix of float16"),
        (torch.zeros(3).half(), "expected one matrix of float16"),
        (torch.zeros(3, 4, dtype=torch.int64), "refers to torch.LongStorage"),
        ({"a": torch.zeros(3, 4)}, "expected one matrix of float16"),
    ]:
        torch.save(value, path)
        with pytest.raises(IndexFileError, match=f"^{path}: .*{reason}"):
            open_matrix(path)
    torch.save(torch.zeros(3, 4), path, _use_new_zipfile_serialization=False)
    with pytest.raises(IndexFileError, match=r"the format of torch before 1\.6; load and save"):
        open_matrix(path)
    with pytest.raises(IndexFileError, match=r"the format of torch before 1\.6; load and save"):
        read_atlas_passages(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(columns(COUNT), path)
    with zipfile.ZipFile(path) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    with pytest.raises(IndexFileError, match="is compressed"):
        open_matrix(path)


def test_files_may_end_early_but_not_be_missing_in_between(tmp_path: Path) -> None:
    save_like_atlas(tmp_path, [4, 4, 2])
    assert len(open_atlas_folder(tmp_path)) == 3
    (tmp_path / "passages.2.pt").unlink()
    assert refused(tmp_path) == f"{tmp_path}/passages.2.pt: missing, others follow"
    (tmp_path / "embeddings.2.pt").unlink()
    assert len(open_atlas_folder(tmp_path)) == 2
    (tmp_path / "embeddings.0.pt").unlink()
    assert refused(tmp_path) == f"{tmp_path}/embeddings.0.pt: missing, others follow"
    for path in tmp_path.iterdir():
        path.unlink()
    assert "no index of Atlas here (embeddings.0.pt is missing)" in refused(tmp_path)
    assert refused(tmp_path / "nowhere") == f"{tmp_path}/nowhere: No such file or directory"


def test_counts_and_widths_that_differ_name_both_numbers(tmp_path: Path) -> None:
    save_like_atlas(tmp_path, [4, 4])
    path = tmp_path / "passages.1.pt"
    path.write_bytes(pickle.dumps([{"text": "t"}]))
    assert refused(tmp_path) == f"{path}: 1 passages, embeddings.1.pt has 4 embeddings"
    torch.save(torch.zeros(DIM - 1, 4).half(), tmp_path / "embeddings.1.pt")
    assert refused(tmp_path).endswith("vectors of 7 numbers, those of embeddings.0.pt have 8")


@pytest.mark.parametrize(
    ("passages", "message"),
    [
        ({"text": "t"}, "found an object, expected a list of passages"),
        (["t"], 'passage 0: found the string "t", expected a dict'),
        ([{"text": "t"}, {"id": "1"}], "passage 1: field 'text': found nothing, expected a string"),
        ([{"text": 3}], "passage 0: field 'text': found the number 3, expected a string"),
        ([{"text": "t", "title": ["a"]}], "passage 0: field 'title': found a list, expected"),
        ([{"text": "t", "id": (1, 2)}], r"holds more than plain data \(TUPLE2\)"),
        ([{"text": b"t"}], "refers to _codecs.encode|holds more than plain data"),
    ],
)
def test_what_is_no_passage_is_named(passages: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "passages.0.pt"
    path.write_bytes(pickle.dumps(passages))
    with pytest.raises(IndexFileError, match=f"^{path}: {message}"):
        read_atlas_passages(path)


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "passages.0.pt"
    nested = b"]" * 100_000 + b"a" * 99_999
    path.write_bytes(b"\x80\x02](}(X\x04\0\0\0textX\x01\0\0\0tX\x01\0\0\0x" + nested + b"ue.")
    with pytest.raises(IndexFileError, match=f"^{path}: passage 0: more than 100 levels"):
        read_atlas_passages(path)


def test_passages_saved_by_torch_are_read(tmp_path: Path) -> None:
    passages = as_atlas_keeps_them(tiny_data.passages(7))
    torch.save(passages, tmp_path / "passages.0.pt")
    assert read_atlas_passages(tmp_path / "passages.0.pt") == passages


def store_of(passages: list[dict[str, Any]], folder: Path) -> PassageStore:
    return write_passages(passages, folder)


@pytest.mark.parametrize("files", [1, 3, 13])
def test_what_is_written_is_what_atlas_reads(files: int, tmp_path: Path) -> None:
    store = store_of(tiny_data.passages(COUNT), tmp_path / "store")
    matrix = columns(COUNT)
    source = VectorSource(
        [VectorFile(COUNT, torch.float16, lambda rows: matrix.T[rows.start : rows.stop])], DIM
    )
    counted: list[int] = []
    (tmp_path / "atlas").mkdir()
    write_atlas_folder(source, store, tmp_path / "atlas", files=files, on_rows=counted.append)
    assert (len(counted), sum(counted)) == (files, COUNT)
    loaded, passages = [], []
    for number in range(files):
        part = torch.load(tmp_path / "atlas" / f"embeddings.{number}.pt", weights_only=True)
        assert part.untyped_storage().nbytes() == part.numel() * 2
        assert part.is_contiguous()
        loaded.append(part)
        content = (tmp_path / "atlas" / f"passages.{number}.pt").read_bytes()
        passages += pickle.loads(content)  # noqa: S301 - our own
    assert torch.equal(torch.cat(loaded, dim=1), matrix)
    assert passages == as_atlas_keeps_them(tiny_data.passages(COUNT))
    shards = open_atlas_folder(tmp_path / "atlas")
    assert torch.equal(whole(atlas_vectors(shards)), matrix.T)
    again = write_passages(atlas_passages(shards), tmp_path / "again")
    assert again.fingerprint == store.fingerprint


def test_a_number_beyond_float16_is_not_written(tmp_path: Path) -> None:
    store = store_of(tiny_data.passages(2), tmp_path / "store")
    vectors = torch.tensor([[1.0], [70_000.0]])
    source = VectorSource(
        [VectorFile(2, torch.float32, lambda rows: vectors[rows.start : rows.stop])], 1
    )
    with pytest.raises(IndexFileError, match=r"vector of row 1 has numbers that torch\.float16"):
        write_atlas_folder(source, store, tmp_path, files=1, on_rows=lambda _: None)


@pytest.mark.parametrize(
    "passage",
    [
        {"text": "t", "title": "A", "section": "S"},
        {"text": "t", "title": "A: S", "section": "S"},
        {"text": "t", "title": "", "section": "S"},
        {"text": "t", "title": "A", "section": ""},
        {"text": "t", "section": "S", "more": {"a": [1, None]}},
        {"id": "", "text": ""},
    ],
    ids=str,
)
def test_titles_are_merged_with_their_sections_once(
    passage: dict[str, Any], tmp_path: Path
) -> None:
    store = store_of([passage], tmp_path / "first")
    source = VectorSource([VectorFile(1, torch.float16, lambda _: torch.zeros(1, 2).half())], 2)
    (tmp_path / "atlas").mkdir()
    write_atlas_folder(source, store, tmp_path / "atlas", files=1, on_rows=lambda _: None)
    again = write_passages(
        atlas_passages(open_atlas_folder(tmp_path / "atlas")), tmp_path / "again"
    )
    assert again.records([0]) == store.records([0])
    assert again.fingerprint == store.fingerprint
