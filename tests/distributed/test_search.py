"""Search on 1 to 4 ranks is one product, and a saved index fits any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gazetteer.index import (
    ShardedIndex,
    load_rows,
    read_manifest,
    save_index,
    shard_range,
)
from gazetteer.records import Hits, Ranks
from tests.support.identities import IDENTITY
from tests.support.ranks import run_on_ranks

DIM = 12
ASKED = [3, 0, 5, 1]
"""Queries of each rank."""


@dataclass(frozen=True)
class Case:
    """One corpus and one search in it."""

    count: int
    top_k: int
    kind: str = "random"

    @property
    def embeddings(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.count)
        values = torch.randn(self.count, DIM, generator=generator)
        if self.kind == "ties":
            return values.round()
        return 1 + 1e-7 * values if self.kind == "near ties" else values


CASES = [
    Case(0, 3),
    Case(1, 3),
    Case(2, 2),
    Case(3, 50),
    Case(37, 10),
    Case(700, 1),
    Case(701, 40),
    Case(700, 25, "ties"),
    Case(301, 5, "near ties"),
]


def queries_of(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 + rank)
    return torch.randint(-3, 4, (ASKED[rank], DIM), generator=generator).float()


def shard(embeddings: Tensor, ranks: Ranks) -> Tensor:
    rows = shard_range(len(embeddings), ranks.rank, ranks.world_size)
    return embeddings[rows.start : rows.stop]


def search(ranks: Ranks, case: Case) -> Hits:
    index = ShardedIndex(case.count, ranks, shard(case.embeddings, ranks))
    return index.search(queries_of(ranks.rank), case.top_k)


SAVED = [(Case(0, 1), 2), (Case(3, 1), 1), (Case(37, 1), 5)]
"""Corpus and number of files."""


def everything(ranks: Ranks, folder: Path) -> tuple[list[Hits], list[Tensor]]:
    """All searches; and what two ranks saved, as this number of ranks loads it."""
    if ranks.world_size == 2:
        for number, (case, files) in enumerate(SAVED):
            index = ShardedIndex(case.count, ranks, shard(case.embeddings, ranks))
            save_index(
                index, folder / str(number), identity=IDENTITY, step=7, files=files, ranks=ranks
            )
    loaded = []
    for number in range(len(SAVED)):
        manifest = read_manifest(folder / str(number))
        rows = shard_range(manifest.count, ranks.rank, ranks.world_size)
        loaded.append(load_rows(folder / str(number), manifest, rows))
    return [search(ranks, case) for case in CASES], loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.fixture(scope="module")
def on_two(folder: Path) -> list:
    return run_on_ranks(everything, 2, folder)


@pytest.fixture(scope="module", params=[1, 2, 3, 4], ids="{} ranks".format)
def seen(request: pytest.FixtureRequest, folder: Path, on_two: list) -> list:
    """Result of each rank; two ranks come first, for they save what the others load."""
    if request.param == 2:
        return on_two
    if request.param == 1:
        return [everything(Ranks(), folder)]
    return run_on_ranks(everything, request.param, folder)


def test_search_on_any_number_of_ranks_is_one_product(seen: list) -> None:
    for rank, (found, _) in enumerate(seen):
        for case, hits in zip(CASES, found, strict=True):
            exact = queries_of(rank).double() @ case.embeddings.double().T
            order = exact.float().argsort(dim=1, descending=True, stable=True)[:, : case.top_k]
            assert hits.rows.shape == (ASKED[rank], min(case.top_k, case.count))
            assert torch.equal(hits.rows, order), case
            assert torch.equal(hits.scores, exact.float().gather(1, order)), case


def test_what_two_ranks_saved_any_number_loads(seen: list) -> None:
    for number, (case, _) in enumerate(SAVED):
        loaded = torch.cat([parts[number] for _, parts in seen])
        assert torch.equal(loaded, case.embeddings)


def test_every_rank_writes_at_least_one_file(on_two: list, folder: Path) -> None:
    for number, (_, files) in enumerate(SAVED):
        manifest = read_manifest(folder / str(number))
        assert len(manifest.files) == max(files, 2)
        assert (manifest.identity, manifest.step) == (IDENTITY, 7)
        names = {path.name for path in (folder / str(number)).iterdir()}
        assert names == {file.name for file in manifest.files} | {"manifest.json"}
