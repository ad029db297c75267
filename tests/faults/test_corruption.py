"""One byte of a file is changed: the file is named and refused; what was good before is used."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gazetteer.data.built_folders import require_built
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.data.tokens import TokenStore, write_tokens
from gazetteer.errors import GazetteerError, IndexFileError
from gazetteer.files import MANIFEST, STAMP, require_intact
from gazetteer.index import ShardedIndex, read_manifest
from gazetteer.index.codec import CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.making import FlatMaker
from gazetteer.indexing import IndexFiles
from gazetteer.indexing.chunks import ChunkFolder
from gazetteer.records import Ranks
from tests.faults.corrupting import Flip, flips
from tests.faults.saved_run import SAVED, SavedRun
from tests.support.identities import IDENTITY
from tests.support.page_files import DIM, PAGE, laid_out_by_pages
from tests.support.tiny_data import passages

LONG, SHORT = 250, 4
"""Bytes of each file."""


def files_below(folder: Path) -> list[Path]:
    """Those with content; a stamp is only a hint, and is made anew."""
    return [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size
            and p.name != STAMP]  # fmt: skip


def refused(flip: Flip, load: Callable[[], object]) -> str | None:
    """What is wrong with how a damaged file is met: it is to be named, in one line."""
    try:
        load()
    except GazetteerError as error:
        said = str(error)
        is_named = flip.path.name in said and "\n" not in said
        return None if is_named else f"not named: {flip}: {said}"
    return f"not noticed: {flip}"


def try_all(files: list[Path], load: Callable[[], object], count: int) -> tuple[int, list[str]]:
    tried, lost = 0, []
    for path in files:
        for flip in flips(path, count):
            with flip.done():
                problem = refused(flip, load)
            lost += [problem] if problem else []
            tried += 1
    load()
    return tried, lost


def test_checkpoints(saved_run: SavedRun, is_long: bool, fault_row, caplog) -> None:
    saved_run.put_back()
    newest = saved_run.run.checkpoints.at(SAVED[-1])
    files = files_below(newest)
    count = LONG // 2 if is_long else SHORT
    tried, lost = try_all(files, lambda: require_intact(newest), count)
    for path in files:
        for flip in flips(path, 3 if is_long else 1, seed=1):
            # Its links: the one that is put back has the same bytes.
            with flip.done(), caplog.at_level(logging.WARNING):
                caplog.clear()
                found = saved_run.run.checkpoints.newest_intact()
            assert found == saved_run.run.checkpoints.at(SAVED[-2]), flip
            assert path.name in caplog.text
    how = f"{len(files)} files of a checkpoint; resume takes the one before"
    fault_row("changed byte", tried, len(lost), how)
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("kind", ["flat", "ivfsq", "pqfs"])
def test_indexes(kind: str, tmp_path: Path, is_long: bool, fault_row) -> None:
    if kind != "flat":
        pytest.importorskip("faiss")
    count = 8 * PAGE
    vectors = torch.randn(count, DIM, generator=torch.Generator().manual_seed(0))
    corpus = write_passages(passages(count), tmp_path / "corpus")
    identity = replace(IDENTITY, corpus=corpus.fingerprint)

    def maker() -> FlatMaker | Compressor:
        size = {"count": count, "dim": DIM, "ranks": Ranks(), "folder": tmp_path / "scratch"}
        if kind == "flat":
            return FlatMaker("int8", **size)
        settings = CodecSettings(kind=kind, nlist=8, nprobe=8)
        return Compressor(settings, show_progress=False, **size)

    folder = tmp_path / "saved"
    with laid_out_by_pages():
        index = ShardedIndex(count, Ranks(), vectors, build_shard=maker())
        files = IndexFiles(save_folder=folder, files=2)
        files.save(index, corpus, identity=identity, step=1, ranks=Ranks())

        def load() -> None:
            maker().load(folder, read_manifest(folder))
            PassageStore(folder / "passages")

        # Of its own: they are links to those of the corpus.
        unlinked(folder / "passages")
        found = files_below(folder)
        tried, lost = try_all(found, load, LONG if is_long else SHORT)
    how = f"{len(found)} files of a saved index ({kind}), with its passages"
    fault_row("changed byte", tried, len(lost), how)
    assert not lost, "\n".join(lost)


def unlinked(folder: Path) -> None:
    for path in folder.iterdir():
        content = path.read_bytes()
        os.unlink(path)
        path.write_bytes(content)


def test_caches(tmp_path: Path, is_long: bool, fault_row) -> None:
    write_passages(passages(50), tmp_path / "passages")
    ids = [np.arange(number % 7, dtype=np.int32) for number in range(50)]
    import pyarrow as pa

    write_tokens([ids], tmp_path / "tokens", pa.uint16())
    tried, lost = 0, []
    for store, name in ((PassageStore, "passages"), (TokenStore, "tokens")):
        folder = tmp_path / name
        count = LONG if is_long else SHORT
        more, problems = try_all(files_below(folder), lambda s=store, f=folder: s(f), count)
        tried, lost = tried + more, lost + problems
        require_built(folder, name)
    fault_row("changed byte", tried, len(lost), "caches of passages and of tokens")
    assert not lost, "\n".join(lost)


def test_chunks_of_a_refresh(tmp_path: Path, is_long: bool, fault_row, caplog) -> None:
    folder = ChunkFolder.of_version(tmp_path, "k" * 64, 4)
    folder.create()
    folder.write(3, torch.randn(5, 4))
    rows = range(3, 8)
    path, lost, tried = folder.file_of(rows), [], 0
    for flip in flips(path, LONG if is_long else SHORT):
        caplog.clear()
        with flip.done():
            found = folder.read(rows)
        tried += 1
        if found is not None or path.name not in caplog.text:
            lost.append(str(flip))
    assert folder.read(rows) is not None
    fault_row("changed byte", tried, len(lost), "pieces of a refresh; they are embedded again")
    assert not lost, "\n".join(lost)


def test_a_manifest_that_is_missing_is_named(saved_run: SavedRun) -> None:
    with pytest.raises(GazetteerError, match=MANIFEST):
        require_intact(saved_run.folder)
    with pytest.raises(IndexFileError, match=MANIFEST):
        read_manifest(saved_run.folder)
