"""A save that is killed anywhere leaves one whole version; the next one cleans up."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gazetteer.index import ShardedIndex, read_manifest, save_index
from gazetteer.index.codec import CodecKind, CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.making import FlatMaker
from gazetteer.index.verification import find_problems
from gazetteer.records import Ranks
from tests.support.identities import IDENTITY
from tests.support.page_files import DIM, PAGE, laid_out_by_pages

COUNT = 12 * PAGE + 5
OLD, NEW = torch.randn(2, COUNT, DIM, generator=torch.Generator().manual_seed(0))
STEPS = {"open", "touch", "write", "fsync", "rename", "replace", "unlink", "mkdir"}
"""Functions of C before whose calls it is killed: whatever changes the disk."""


def killed_at_every_step(work: Callable[[], object], folder: Path, copies: Path) -> list[Path]:
    """Do the work; what the folder was like before every step, and in the end, in order.

    That is what a process would leave that is killed there: what it did not hand to the system yet
    is lost, what it did is safe.
    """
    found: list[Path] = []

    def snapshot(*_: object) -> None:
        found.append(copies / f"{len(found):04d}")
        shutil.copytree(folder, found[-1], copy_function=_link_or_copy)

    def watch(_: object, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in STEPS:
            snapshot()

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    snapshot()
    return found


def _link_or_copy(source: str, target: str) -> None:
    """A link of what has its name, for nothing may be written into it from then on."""
    if source.endswith((".safetensors", ".faiss", "manifest.json")):
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def compressor(folder: Path, kind: CodecKind) -> Compressor:
    settings = CodecSettings(kind=kind, nlist=8, nprobe=8)
    return Compressor(
        settings, count=COUNT, dim=DIM, ranks=Ranks(), folder=folder / "v", show_progress=False
    )


def made(vectors: torch.Tensor, kind: CodecKind | None, scratch: Path) -> ShardedIndex:
    if kind is None:
        return ShardedIndex(COUNT, Ranks(), vectors)
    return ShardedIndex(COUNT, Ranks(), vectors, build_shard=compressor(scratch, kind))


def loaded(folder: Path, kind: CodecKind | None, scratch: Path) -> ShardedIndex:
    index, manifest = ShardedIndex(COUNT, Ranks()), read_manifest(folder)
    flat = FlatMaker("int8", count=COUNT, dim=DIM, ranks=Ranks(), folder=scratch)
    maker = flat if kind is None else compressor(scratch, kind)
    index.adopt(maker.load(folder, manifest))
    return index


def save(index: ShardedIndex, folder: Path, step: int, files: int) -> None:
    save_index(index, folder, identity=IDENTITY, step=step, files=files, ranks=Ranks())


@pytest.fixture(params=[True, False], ids=["by pages", "by rows"])
def layout(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.param:
        yield
        return
    with laid_out_by_pages():
        yield


@pytest.mark.parametrize(
    ("old_kind", "new_kind", "files"),
    [(None, None, 10), (None, "ivfsq", 6), ("ivfsq", "pqfs", 10)],
    ids=["flat to flat", "flat to faiss", "faiss to faiss"],
)
@pytest.mark.usefixtures("layout")
def test_a_kill_anywhere_leaves_one_whole_version(
    old_kind: CodecKind | None, new_kind: CodecKind | None, files: int, tmp_path: Path
) -> None:
    if old_kind or new_kind:
        pytest.importorskip("faiss")
    folder, copies = tmp_path / "index", tmp_path / "copies"
    save(made(OLD, old_kind, tmp_path), folder, 1, 4)
    index = made(NEW, new_kind, tmp_path)
    left = killed_at_every_step(lambda: save(index, folder, 2, files), folder, copies)
    seen = []
    for number, copy in enumerate(left):
        assert find_problems(copy, lambda _: None) == []
        seen.append(read_manifest(copy).step)
        kind, vectors = (old_kind, OLD) if seen[-1] == 1 else (new_kind, NEW)
        assert torch.equal(loaded(copy, kind, tmp_path).embeddings, vectors)
        if number % 10 == 0:
            save(index, copy, 3, files)
            names = {file.name for file in read_manifest(copy).all_files}
            assert {path.name for path in copy.iterdir()} == names | {"manifest.json"}
    # First everything is written, then one move, then the old files go.
    assert seen == sorted(seen)
    assert seen.count(1) >= 40 and seen.count(2) >= 5
    # In all six of these together more than 500.
    assert len(seen) >= 75
