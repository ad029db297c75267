"""Killed at any step on the disk: no checkpoint is lost that was acknowledged, all can be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gazetteer import stamps
from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.index import ShardedIndex, load_rows, read_manifest
from gazetteer.index.codec import CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.making import FlatMaker
from gazetteer.index.verification import find_problems
from gazetteer.indexing import IndexFiles
from gazetteer.records import Ranks
from tests.faults.saved_run import SAVED, SavedRun
from tests.faults.whole_run import WholeRun
from tests.support.identities import IDENTITY
from tests.support.kill_points import KILLED, TOO_LARGE, Fault, disk_steps, in_child
from tests.support.tiny_data import passages


def test_a_kill_during_a_save(saved_run: SavedRun, is_long: bool, fault_row) -> None:
    steps = disk_steps(saved_run.save, saved_run.folder)
    lost = []
    tried = range(0, steps, 1 if is_long else 17)
    for step in tried:
        saved_run.put_back()
        assert in_child(saved_run.save, saved_run.folder, Fault(step=step)) == KILLED
        lost += [f"step {step}: {problem}" for problem in saved_run.lost(SAVED[-1])]
    saved_run.put_back()
    fault_row("kill", len(tried), len(lost), "checkpoint save and purge, at any step on the disk")
    assert not lost, "\n".join(lost)


def test_a_kill_in_the_middle_of_a_write(saved_run: SavedRun, is_long: bool, fault_row) -> None:
    largest = max(path.stat().st_size for path in saved_run.folder.rglob("*"))
    lost, tried = [], 0
    for number in range(1, largest, largest // (200 if is_long else 6)):
        saved_run.put_back()
        status = in_child(saved_run.save, saved_run.folder, Fault(largest_file=number))
        assert status in (0, TOO_LARGE)
        tried += status == TOO_LARGE
        lost += [f"{number} bytes: {problem}" for problem in saved_run.lost(SAVED[-1])]
    saved_run.put_back()
    fault_row("kill", tried, len(lost), "checkpoint save, in the middle of a file")
    assert not lost, "\n".join(lost)


@pytest.mark.parametrize("refresh", ["blocking", "interleaved"])
def test_a_kill_anywhere_in_a_run(tmp_path: Path, refresh: str, is_long: bool, fault_row) -> None:
    """The same command then ends with the bits of a run that nobody killed."""
    run = WholeRun(tmp_path, refresh_mode=refresh, refresh_steps=2)
    run.start_over()
    steps = disk_steps(run.work, run.experiments)
    lost, tried = [], range(0, steps, 2 if is_long else steps // 3)
    for step in tried:
        run.start_over()
        assert run.go(Fault(step=step)) == KILLED
        lost += [f"step {step}: {problem}" for problem in run.lost()]
    how = f"a whole run, four checkpoints, a refresh ({refresh}), a saved index: equal bits"
    fault_row("kill", len(tried), len(lost), how)
    assert not lost, "\n".join(lost)


COUNT, DIM = 2_000, 8
OLD, NEW = torch.randn(2, COUNT, DIM, generator=torch.Generator().manual_seed(0))


class SavedIndex:
    """An index on the disk, with its passages, and a newer one in memory.

    Args:
        folder: to work in.
        kind: of the newer one.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind, self.scratch = kind, folder / "scratch"
        self.folder, self._before = folder / "runs", folder / "before"
        self.saved = self.folder / "saved"
        self._corpus = write_passages(passages(COUNT), folder / "corpus")
        self._identity = replace(IDENTITY, corpus=self._corpus.fingerprint)
        flat = ShardedIndex(COUNT, Ranks(), OLD)
        self._save(flat, 1)
        shutil.copytree(self.folder, self._before)
        self._newer = ShardedIndex(COUNT, Ranks(), NEW, build_shard=self._maker())

    def _maker(self) -> FlatMaker | Compressor:
        if self.kind == "flat":
            return FlatMaker("int8", count=COUNT, dim=DIM, ranks=Ranks(), folder=self.scratch)
        settings = CodecSettings(kind="ivfsq", nlist=8, nprobe=8)
        return Compressor(
            settings, count=COUNT, dim=DIM, ranks=Ranks(), folder=self.scratch, show_progress=False
        )

    def _save(self, index: ShardedIndex, step: int) -> None:
        files = IndexFiles(save_folder=self.saved, files=6)
        files.save(index, self._corpus, identity=self._identity, step=step, ranks=Ranks())

    def save(self) -> None:
        self._save(self._newer, 2)

    def load(self) -> None:
        """As a run does: hashes are compared, and what matched is remembered in stamps."""
        manifest = read_manifest(self.saved)
        ShardedIndex(COUNT, Ranks()).adopt(self._maker().load(self.saved, manifest))
        PassageStore(self.saved / "passages").records(range(3))

    def put_back(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._before, self.folder, copy_function=os.link)

    def lost(self) -> list[str]:
        """What is not as it should be: one of the two versions is there, whole."""
        problems = find_problems(self.saved, lambda _: None)
        if problems:
            return problems
        manifest = read_manifest(self.saved)
        vectors = load_rows(self.saved, manifest, range(COUNT))
        is_whole = torch.equal(vectors, OLD if manifest.step == 1 else NEW)
        return [] if is_whole else [f"other vectors at step {manifest.step}"]


@pytest.fixture(params=["flat", "faiss"])
def saved_index(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> SavedIndex:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(stamps, "LARGE_BYTES", 1)
    monkeypatch.setattr(stamps, "SETTLED_NS", -1)
    return SavedIndex(tmp_path, request.param)


def killed_everywhere(
    saved: SavedIndex, work: Callable[[], None], every: int
) -> tuple[int, list[str]]:
    """Points tried, and what was lost; the work is done again after each."""
    lost, tried = [], range(0, disk_steps(work, saved.folder), every)
    for step in tried:
        saved.put_back()
        assert in_child(work, saved.folder, Fault(step=step)) == KILLED
        lost += [f"step {step}: {problem}" for problem in saved.lost()]
        assert in_child(work, saved.folder, Fault()) == 0, step
        lost += [f"step {step}, again: {problem}" for problem in saved.lost()]
    saved.put_back()
    return len(tried), lost


@pytest.mark.parametrize("work", ["save", "load"])
def test_a_kill_around_an_index(
    saved_index: SavedIndex, work: str, is_long: bool, fault_row
) -> None:
    every = 1 if is_long else 9
    tried, lost = killed_everywhere(saved_index, getattr(saved_index, work), every)
    how = f"index {work} ({saved_index.kind}, with passages): one whole version, then the new one"
    fault_row("kill", tried, len(lost), how)
    assert not lost, "\n".join(lost)


def test_a_kill_while_passages_are_built(tmp_path: Path, is_long: bool, fault_row) -> None:
    corpus, folder = passages(50), tmp_path / "cache" / "passages"

    def work() -> None:
        write_passages(corpus, folder)

    lost, tried = [], range(0, disk_steps(work, tmp_path), 1 if is_long else 5)
    for step in tried:
        shutil.rmtree(tmp_path / "cache")
        assert in_child(work, tmp_path, Fault(step=step)) == KILLED
        if folder.exists() and PassageStore(folder).count != len(corpus):
            lost.append(f"step {step}: half a corpus")
        assert write_passages(corpus, folder).count == len(corpus)
    fault_row("kill", len(tried), len(lost), "building the cache of passages: none, or whole")
    assert not lost, "\n".join(lost)
