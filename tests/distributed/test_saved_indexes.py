"""Saved on 1, 2, 3 and 4 workers, loaded on 1, 2, 3 and 4: every kind of index, the same hits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from gazetteer.index import ShardedIndex, faiss_codec, flat, making, read_manifest, save_index
from gazetteer.index.codec import CodecKind, CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.making import FlatMaker, ShardMaker
from gazetteer.index.shards import shard_range
from gazetteer.records import Hits, Ranks
from tests.support.clusters import clustered, queries_near
from tests.support.identities import IDENTITY
from tests.support.page_files import DIM, PAGE, laid_out_by_pages
from tests.support.ranks import run_on_ranks

pytest.importorskip("faiss")

WORKERS = (1, 2, 3, 4)
KINDS: tuple[str, ...] = ("int8", "fp32", *get_args(CodecKind))
COUNT, FILES, TOP_K = 12 * PAGE + 21, 6, 7
VECTORS = clustered(COUNT, DIM, duplicates=40)
QUERIES = queries_near(VECTORS, 9)


@contextmanager
def as_one_of(rank: int, world_size: int, meeting: Path) -> Iterator[Ranks]:
    """This process among the first so many, in a process group of their own."""
    _join(rank, world_size, meeting)
    try:
        yield Ranks(rank=rank, local_rank=rank, world_size=world_size)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _join(rank: int, world_size: int, meeting: Path) -> None:
    store = dist.FileStore(str(meeting), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)


def maker(kind: str, ranks: Ranks, folder: Path) -> ShardMaker:
    common: dict[str, Any] = {"count": COUNT, "dim": DIM, "ranks": ranks, "folder": folder / "v"}
    if kind in ("int8", "fp32"):
        return FlatMaker(kind, **common)  # type: ignore[arg-type]
    settings = CodecSettings(kind=kind, nlist=8, nprobe=5)  # type: ignore[arg-type]
    return Compressor(settings, **common, show_progress=False)


def search(index: ShardedIndex, ranks: Ranks) -> Hits:
    asked = shard_range(len(QUERIES), ranks.rank, ranks.world_size)
    return index.search(QUERIES[asked.start : asked.stop], TOP_K)


def mine(ranks: Ranks) -> Tensor:
    rows = shard_range(COUNT, ranks.rank, ranks.world_size)
    return VECTORS[rows.start : rows.stop]


def save_all(ranks: Ranks, folder: Path) -> dict[Any, Hits]:
    hits = {}
    for kind in KINDS:
        index = ShardedIndex(COUNT, ranks, build_shard=maker(kind, ranks, folder))
        index.replace(mine(ranks))
        hits[kind] = search(index, ranks)
        target = folder / f"{kind}-{ranks.world_size}"
        save_index(index, target, identity=IDENTITY, step=1, files=FILES, ranks=ranks)
    return hits


def load_all(ranks: Ranks, folder: Path) -> dict[Any, Hits]:
    hits = {}
    with mock.patch.object(faiss_codec, "train_codec", side_effect=AssertionError("trained")):
        for kind in KINDS:
            for saved_on in WORKERS:
                source = folder / f"{kind}-{saved_on}"
                shard = maker(kind, ranks, folder).load(source, read_manifest(source))
                assert torch.equal(shard.vectors, mine(ranks))
                # The vectors are in a map of the saved files, whoever saved them.
                assert f"{source}/embeddings." in Path("/proc/self/maps").read_text()
                index = ShardedIndex(COUNT, ranks)
                index.adopt(shard)
                hits[kind, saved_on] = search(index, ranks)
    return hits


def everything(ranks: Ranks, folder: Path) -> list[dict[int, dict[Any, Hits]]]:
    """Hits of what was built and of what was loaded, by the number of workers."""
    dist.destroy_process_group()
    outcome: list[dict[int, dict[Any, Hits]]] = []
    steps: list[Callable[[Ranks, Path], dict[Any, Hits]]] = [save_all, load_all]
    with (
        laid_out_by_pages(),
        mock.patch.object(flat, "ROWS_PER_HIT", 1),
        mock.patch.object(flat, "FEWEST_ROWS", 1),
        mock.patch.object(making, "FEWEST_ROWS", 1),
    ):
        for number, work in enumerate(steps):
            outcome.append({})
            for workers in WORKERS:
                if ranks.rank < workers:
                    with as_one_of(ranks.rank, workers, folder / f"{number}-{workers}") as few:
                        outcome[-1][workers] = work(few, folder)
            # All four meet before the next step.
            with as_one_of(ranks.rank, 4, folder / f"{number}-all"):
                pass
    # As it was found.
    _join(ranks.rank, 4, folder / "end")
    return outcome


def together(parts: list[dict[Any, Hits]]) -> dict[Any, Hits]:
    """Hits for all queries, in order of rank."""
    return {
        key: Hits(
            torch.cat([part[key].rows for part in parts]),
            torch.cat([part[key].scores for part in parts]),
        )
        for key in parts[0]
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> list[dict[int, dict[Any, Hits]]]:
    """Hits for all queries, by step, by number of workers, by index."""
    ranks = run_on_ranks(everything, 4, folder)
    return [
        {n: together([rank[step][n] for rank in ranks[:n]]) for n in WORKERS} for step in (0, 1)
    ]


def test_all_that_was_saved_is_found_by_any_number_of_workers(
    outcomes: list[dict[int, dict[Any, Hits]]],
) -> None:
    built, loaded = outcomes
    expected = built[1]
    assert sum(map(len, loaded.values())) == len(KINDS) * len(WORKERS) ** 2
    for workers, found in loaded.items():
        for (kind, saved_on), hits in found.items():
            case = kind, saved_on, workers
            assert torch.equal(hits.rows, expected[kind].rows), case
            assert torch.equal(hits.scores, expected[kind].scores), case
            assert torch.equal(built[workers][kind].rows, expected[kind].rows), case


def test_flat_hits_are_the_exact_ones(outcomes: list[dict[int, dict[Any, Hits]]]) -> None:
    exact = (QUERIES.double() @ VECTORS.double().T).float()
    order = exact.argsort(dim=1, descending=True, stable=True)[:, :TOP_K]
    for kind in ("int8", "fp32"):
        assert torch.equal(outcomes[0][1][kind].rows, order)


def test_files_are_whole_pages_whoever_wrote_them(
    outcomes: list[dict[int, dict[Any, Hits]]], folder: Path
) -> None:
    for workers in WORKERS:
        for kind in KINDS:
            manifest = read_manifest(folder / f"{kind}-{workers}")
            files = sorted(manifest.files, key=lambda file: file.first_row)
            assert len(files) == FILES
            assert all(file.rows % PAGE == 0 for file in files[:-1])
            assert len(manifest.rounded) == (FILES if kind in ("int8", "fp32") else 0)
