from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index import ShardedIndex, read_manifest, save_index
from gazetteer.index.flat import ROWS_PER_HIT, FlatShard
from gazetteer.index.making import FlatMaker, IndexDtype
from gazetteer.records import Ranks
from tests.support.identities import IDENTITY

ROWS, DIM = 4 * ROWS_PER_HIT, 12


def maker(folder: Path, dtype: IndexDtype) -> FlatMaker:
    return FlatMaker(dtype, count=ROWS, dim=DIM, ranks=Ranks(), folder=folder)


def filled(folder: Path, dtype: IndexDtype) -> tuple[FlatShard, Tensor]:
    made, vectors = maker(folder, dtype), torch.randn(ROWS, DIM)
    room = made.allocate()
    room.copy_(vectors)
    return made(room), vectors


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "int8"])
def test_hits_do_not_depend_on_what_is_kept_in_memory(tmp_path: Path, dtype: IndexDtype) -> None:
    shard, vectors = filled(tmp_path, dtype)
    queries = torch.randn(5, DIM)
    exact = (queries.double() @ vectors.double().T).float()
    scores, rows = shard.search(queries, 4)
    assert torch.equal(rows, exact.argsort(dim=1, descending=True)[:, :4])
    assert torch.equal(scores, exact.gather(1, rows))


@pytest.mark.parametrize(("dtype", "size"), [("fp16", 2), ("bf16", 2), ("int8", 16 / DIM)])
def test_vectors_lie_on_the_disk_and_codes_in_memory(
    tmp_path: Path, dtype: IndexDtype, size: float
) -> None:
    shard, vectors = filled(tmp_path, dtype)
    assert shard._codes is not None
    assert shard._codes.codes.nbytes == size * ROWS * DIM
    mapped = [
        line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line
    ]
    assert len(mapped) == 1
    assert torch.equal(shard.vectors, vectors)


def test_what_is_loaded_is_searched_like_what_was_saved(tmp_path: Path) -> None:
    shard, vectors = filled(tmp_path / "vectors", "fp32")
    save_index(
        ShardedIndex(ROWS, Ranks(), vectors), tmp_path / "saved",
        identity=IDENTITY, step=0, files=3, ranks=Ranks(),
    )  # fmt: skip
    queries = torch.randn(3, DIM)
    for dtype in ("fp32", "int8"):
        folder = tmp_path / "saved"
        loaded = maker(tmp_path / "vectors", dtype).load(folder, read_manifest(folder))
        for found, expected in zip(
            loaded.search(queries, 4), shard.search(queries, 4), strict=True
        ):
            assert torch.equal(found, expected)
    (tmp_path / "saved" / read_manifest(folder).files[1].name).unlink()
    with pytest.raises(IndexFileError, match="missing"):
        maker(tmp_path / "vectors", "fp32").load(folder, read_manifest(folder))
