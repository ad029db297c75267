"""Compressed shards: one quantiser for all ranks, and hits that do not depend on their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest
import torch
from torch import Tensor

from gazetteer.errors import IndexFileError
from gazetteer.index import ShardedIndex, faiss_codec, read_manifest, save_index, shard_range
from gazetteer.index.codec import CodecKind, CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.records import Hits, Ranks
from tests.support.clusters import clustered, queries_near
from tests.support.identities import IDENTITY
from tests.support.ranks import run_on_ranks

pytest.importorskip("faiss")

KINDS = get_args(CodecKind)
COUNT, DIM, TOP_K = 1301, 16, 12
VECTORS = clustered(COUNT, DIM, duplicates=60)
QUERIES = queries_near(VECTORS, 24)
RESCORE = (0, 50)
TINY = (0, 1, 2, 20)
"""Rows of corpora smaller than the number of ranks, or than a quantiser can be trained on."""
FILES = 5


def asked_by(ranks: Ranks) -> range:
    """Queries of a rank: all of them in all, whatever the number of ranks."""
    return shard_range(len(QUERIES), ranks.rank, ranks.world_size)


def mine(everything: Tensor, part: range) -> Tensor:
    return everything[part.start : part.stop]


def compressor(ranks: Ranks, folder: Path, kind: CodecKind, count: int, rescore: int) -> Compressor:
    settings = CodecSettings(kind=kind, nlist=40, nprobe=25, rescore=rescore)
    return Compressor(
        settings,
        count=count,
        dim=DIM,
        ranks=ranks,
        folder=folder / "vectors",
        show_progress=False,
    )


def build(ranks: Ranks, folder: Path, kind: CodecKind, count: int, rescore: int) -> ShardedIndex:
    builder = compressor(ranks, folder, kind, count, rescore)
    index = ShardedIndex(count, ranks, build_shard=builder)
    vectors = builder.allocate()
    vectors[:] = mine(VECTORS, index.rows)
    index.replace(vectors)
    return index


def search(index: ShardedIndex, ranks: Ranks) -> Hits:
    return index.search(mine(QUERIES, asked_by(ranks)), TOP_K)


def saved_in(folder: Path, kind: CodecKind, world_size: int) -> Path:
    return folder / f"{kind}-{world_size}"


def build_all(ranks: Ranks, folder: Path) -> dict[Any, Hits]:
    """Hits of every kind of index, built here; each is saved."""
    hits: dict[Any, Hits] = {}
    for kind in KINDS:
        for rescore in RESCORE:
            index = build(ranks, folder, kind, COUNT, rescore)
            hits[kind, rescore] = search(index, ranks)
        save_index(
            index,
            saved_in(folder, kind, ranks.world_size),
            identity=IDENTITY,
            step=3,
            files=FILES,
            ranks=ranks,
        )
        for count in TINY:
            hits[kind, "tiny", count] = search(build(ranks, folder, kind, count, 20), ranks)
    return hits


def load_all(ranks: Ranks, folder: Path, saved_on: list[int]) -> dict[Any, Hits]:
    """Hits of every kind of index that so many ranks saved, loaded here without any training."""
    hits: dict[Any, Hits] = {}
    with mock.patch.object(faiss_codec, "train_codec", side_effect=AssertionError("trained")):
        for kind in KINDS:
            for world_size in saved_on:
                for rescore in RESCORE:
                    loader = compressor(ranks, folder, kind, COUNT, rescore)
                    source = saved_in(folder, kind, world_size)
                    index = ShardedIndex(COUNT, ranks)
                    index.adopt(loader.load(source, read_manifest(source)))
                    hits[kind, rescore, world_size] = search(index, ranks)
    return hits


def build_and_load(ranks: Ranks, folder: Path, saved_on: list[int]) -> list[dict[Any, Hits]]:
    return [build_all(ranks, folder), load_all(ranks, folder, saved_on)]


def damaged(ranks: Ranks, folder: Path) -> list[str]:
    """What each rank is told of a quantiser, and of codes that one rank alone reads, damaged."""
    told = []
    source = folder / "damaged"
    save_index(
        build(ranks, folder, "ivfpq", COUNT, 0),
        source,
        identity=IDENTITY,
        step=0,
        files=FILES,
        ranks=ranks,
    )
    manifest = read_manifest(source)
    assert manifest.codec is not None
    for file in (manifest.codec.quantiser, manifest.codec.codes[-1]):
        path = source / file.name
        content = path.read_bytes()
        loader = compressor(ranks, folder, "ivfpq", COUNT, 0)
        if ranks.is_main:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        torch.distributed.barrier()
        with mock.patch.object(faiss_codec, "read_codec", wraps=faiss_codec.read_codec) as read:
            try:
                loader.load(source, manifest)
            except IndexFileError as error:
                told.append(f"{error} / {read.call_count}")
        torch.distributed.barrier()
        if ranks.is_main:
            path.write_bytes(content)
        torch.distributed.barrier()
    return told


def everything_on_two(ranks: Ranks, folder: Path) -> list[Any]:
    return [*build_and_load(ranks, folder, [1]), damaged(ranks, folder)]


def together(parts: list[dict[Any, Hits]]) -> dict[Any, Hits]:
    """Hits for all queries."""
    return {
        key: Hits(
            torch.cat([part[key].rows for part in parts]),
            torch.cat([part[key].scores for part in parts]),
        )
        for key in parts[0]
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compressed")


@pytest.fixture(scope="module")
def on_one(folder: Path) -> dict[Any, Hits]:
    return build_all(Ranks(), folder)


@pytest.fixture(scope="module")
def on_two(folder: Path, on_one: dict[Any, Hits]) -> list[list[Any]]:
    return run_on_ranks(everything_on_two, 2, folder)


@pytest.fixture(scope="module")
def on_three(folder: Path, on_two: list[list[Any]]) -> list[list[Any]]:
    return run_on_ranks(build_and_load, 3, folder, [1, 2])


def assert_same(found: Hits, expected: Hits) -> None:
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("ranks", ["on_two", "on_three"])
def test_any_number_of_ranks_builds_the_index_of_one(
    ranks: str, on_one: dict[Any, Hits], request: pytest.FixtureRequest
) -> None:
    found = together([parts[0] for parts in request.getfixturevalue(ranks)])
    assert found.keys() == on_one.keys()
    for key, expected in on_one.items():
        assert_same(found[key], expected)


def test_any_number_of_ranks_loads_what_any_other_saved(
    folder: Path, on_one: dict[Any, Hits], on_two: list[list[Any]], on_three: list[list[Any]]
) -> None:
    loaded = load_all(Ranks(), folder, [1, 2, 3])
    assert len(loaded) == len(KINDS) * len(RESCORE) * 3
    others = run_on_ranks(load_all, 2, folder, [3])
    for found in (
        loaded,
        together([parts[1] for parts in on_two]),
        together([parts[1] for parts in on_three]),
        together(others),
    ):
        for (kind, rescore, _), hits in found.items():
            assert_same(hits, on_one[kind, rescore])


def test_all_ranks_save_the_same_quantiser_and_the_same_codes(
    folder: Path, on_three: list[list[Any]]
) -> None:
    for kind in KINDS:
        codecs = [read_manifest(saved_in(folder, kind, n)).codec for n in (1, 2, 3)]
        quantisers = {codec.quantiser.sha256 for codec in codecs if codec}
        assert len(quantisers) == 1
        assert all(codec and len(codec.codes) in (0, FILES) for codec in codecs)


def test_small_corpora_are_searched_exactly(on_one: dict[Any, Hits]) -> None:
    for kind in KINDS:
        for count in TINY:
            index = ShardedIndex(count, Ranks(), VECTORS[:count])
            assert_same(on_one[kind, "tiny", count], index.search(QUERIES, TOP_K))


def test_damage_is_named_on_every_rank_and_before_faiss_reads_it(
    folder: Path, on_two: list[list[Any]]
) -> None:
    told = [parts[2] for parts in on_two]
    for rank, (quantiser, codes) in enumerate(told):
        assert quantiser.startswith(f"{folder}/damaged/codec.")
        assert quantiser.endswith(" / 0")
        assert codes.startswith(f"{folder}/damaged/codes.00004.")
        assert "SHA-256" in quantiser and "SHA-256" in codes, rank
