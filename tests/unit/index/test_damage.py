"""Every kind of damage to every file of an index is named, by `verify` and by loading it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gazetteer import stamps
from gazetteer.errors import IndexFileError
from gazetteer.index import ShardedIndex, read_manifest, save_index
from gazetteer.index.codec import CodecKind, CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.making import FlatMaker, ShardMaker
from gazetteer.index.verification import find_problems
from gazetteer.records import Ranks
from tests.support.identities import IDENTITY
from tests.support.page_files import DIM, PAGE, laid_out_by_pages

COUNT, FILES = 12 * PAGE + 5, 3
KINDS: tuple[CodecKind | None, ...] = (None, "ivfpq", "pqfs")
FLIPPED = {
    "length of the header": 0,
    "highest byte of it": 7,
    "begin of the header": 8,
    "name in the header": 11,
    "offsets in the header": 60,
    "padding": 2000,
    "middle": None,
    "last byte": -1,
}
"""Places of a byte, from the beginning or the end of a file."""


def maker(kind: CodecKind | None, folder: Path) -> ShardMaker:
    common = {"count": COUNT, "dim": DIM, "ranks": Ranks(), "folder": folder / "vectors"}
    if kind is None:
        return FlatMaker("int8", **common)
    settings = CodecSettings(kind=kind, nlist=8)
    return Compressor(settings, **common, show_progress=False)


@pytest.fixture(scope="module", params=KINDS, ids=str)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Callable[[], object]]]:
    """An index with every kind of file that there is, and how to load it."""
    if request.param is not None:
        pytest.importorskip("faiss")
    folder = tmp_path_factory.mktemp("saved")
    with laid_out_by_pages():
        index = ShardedIndex(COUNT, Ranks(), build_shard=maker(request.param, folder))
        index.replace(torch.randn(COUNT, DIM))
        save_index(index, folder / "index", identity=IDENTITY, step=0, files=FILES, ranks=Ranks())
    loader = maker(request.param, folder)
    yield folder / "index", lambda: loader.load(folder / "index", read_manifest(folder / "index"))


def assert_refused(path: Path, load: Callable[[], object]) -> None:
    """Named by both, in one line; and all is well when it is repaired."""
    (problem,) = find_problems(path.parent, lambda _: None)
    assert problem.startswith(f"{path}: ")
    with pytest.raises(IndexFileError) as caught:
        load()
    assert str(caught.value) == problem
    assert "\n" not in problem


@pytest.mark.parametrize("is_stamped", [False, True], ids=["", "stamped"])
@pytest.mark.parametrize("place", FLIPPED.values(), ids=FLIPPED.keys())
def test_a_flipped_bit(
    saved: tuple[Path, Callable[[], object]],
    place: int | None,
    is_stamped: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, load = saved
    if is_stamped:
        monkeypatch.setattr(stamps, "LARGE_BYTES", 0)
        monkeypatch.setattr(stamps, "SETTLED_NS", -1)
        load()
        # Further apart than the clock of any local file system ticks.
        time.sleep(0.03)
    for file in read_manifest(folder).all_files:
        content = (folder / file.name).read_bytes()
        where = len(content) // 2 if place is None else place
        damaged = bytearray(content)
        damaged[where] ^= 1 << where % 8
        before = (folder / file.name).stat()
        (folder / file.name).write_bytes(damaged)
        # A program can set this time back, though not the other one.
        os.utime(folder / file.name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert_refused(folder / file.name, load)
        (folder / file.name).write_bytes(content)
    load()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:7],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content + content,
        lambda content: bytes(len(content)),
        lambda content: None,
    ],
    ids=["last byte", "half", "header", "empty", "a byte more", "twice", "zeros", "deleted"],
)
def test_a_file_of_another_size_or_none(
    saved: tuple[Path, Callable[[], object]], damage: Callable[[bytes], bytes | None]
) -> None:
    folder, load = saved
    for path in [*(folder / file.name for file in read_manifest(folder).all_files)]:
        content = path.read_bytes()
        damaged = damage(content)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert_refused(path, load)
        path.write_bytes(content)
    load()


def test_a_file_in_place_of_another(saved: tuple[Path, Callable[[], object]]) -> None:
    folder, load = saved
    first, second = (folder / file.name for file in read_manifest(folder).files[:2])
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    assert_refused(first, load)
    first.write_bytes(contents[0])
    load()


def test_every_flipped_bit_of_the_manifest(saved: tuple[Path, Callable[[], object]]) -> None:
    folder, load = saved
    path = folder / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        (problem,) = find_problems(folder, lambda _: None)
        with pytest.raises(IndexFileError) as caught:
            load()
        assert str(caught.value) == problem
        assert problem.startswith(f"{path}: ")
    path.write_bytes(content)
    load()
