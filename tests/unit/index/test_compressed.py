from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from gazetteer.errors import OptionError
from gazetteer.index import ShardedIndex, faiss_codec
from gazetteer.index.codec import Codec, CodecKind, CodecSettings
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.compressor import Compressor, sample_rows
from gazetteer.index.faiss_codec import (
    DamagedCodecError,
    add_codes,
    codes_of,
    read_codec,
    train_codec,
)
from gazetteer.records import Hits, Ranks
from tests.support.clusters import clustered, queries_near

pytest.importorskip("faiss")

KINDS = get_args(CodecKind)
COUNT, DIM = 1500, 16
VECTORS = clustered(COUNT, DIM, duplicates=40)
QUERIES = queries_near(VECTORS, 40)


def compressor(folder: Path, kind: CodecKind, count: int = COUNT, **asked: int) -> Compressor:
    return Compressor(
        CodecSettings(kind=kind, **asked),
        count=count,
        dim=DIM,
        ranks=Ranks(),
        folder=folder,
        show_progress=False,
    )


def build(folder: Path, vectors: Tensor, kind: CodecKind, **asked: int) -> ShardedIndex:
    builder = compressor(folder, kind, len(vectors), **asked)
    mapped = builder.allocate()
    mapped[:] = vectors
    return ShardedIndex(len(vectors), Ranks(), mapped, build_shard=builder)


def exact(vectors: Tensor, top_k: int) -> Hits:
    return ShardedIndex(len(vectors), Ranks(), vectors).search(QUERIES, top_k)


def recall(found: Hits, expected: Hits) -> float:
    is_found = (found.rows.unsqueeze(2) == expected.rows.unsqueeze(1)).any(dim=2)
    return is_found.float().mean().item()


# ---- what is found


@pytest.mark.parametrize("kind", KINDS)
def test_rescored_candidates_are_nearly_all_that_an_exact_search_finds(
    kind: CodecKind, tmp_path: Path
) -> None:
    index = build(tmp_path, VECTORS, kind, rescore=200, nprobe=10**6)
    expected = exact(VECTORS, 10)
    found = index.search(QUERIES, 10)
    assert recall(found, expected) > 0.99
    same = found.rows == expected.rows
    assert torch.equal(found.scores[same], expected.scores[same])


@pytest.mark.parametrize("kind", ["pq", "ivfpq", "pqfs", "ivfpqfs"])
def test_rescoring_makes_up_for_what_codes_lose(kind: CodecKind, tmp_path: Path) -> None:
    expected = exact(VECTORS, 10)
    recalls = [
        recall(build(tmp_path, VECTORS, kind, **asked).search(QUERIES, 10), expected)
        for asked in ({"rescore": 0}, {}, {"rescore": 200})
    ]
    assert recalls[0] + 0.1 < recalls[1] < recalls[2] + 1e-6


@pytest.mark.parametrize("kind", ["flat", "sq"])
def test_codes_that_lose_little_or_nothing_need_no_more_than_the_hits(
    kind: CodecKind, tmp_path: Path
) -> None:
    index = build(tmp_path, VECTORS, kind, rescore=0)
    assert recall(index.search(QUERIES, 10), exact(VECTORS, 10)) > (0.98 if kind == "sq" else 0.999)


def test_flat_is_exact_to_the_last_bit(tmp_path: Path) -> None:
    hits, expected = build(tmp_path, VECTORS, "flat").search(QUERIES, 100), exact(VECTORS, 100)
    assert torch.equal(hits.rows, expected.rows)
    assert torch.equal(hits.scores, expected.scores)


def test_the_fewer_lists_are_searched_the_less_is_found(tmp_path: Path) -> None:
    index = build(tmp_path, VECTORS, "ivfflat", nlist=30, nprobe=30)
    few = build(tmp_path, VECTORS, "ivfflat", nlist=30, nprobe=1)
    expected = exact(VECTORS, 100)
    assert recall(index.search(QUERIES, 100), expected) == 1
    assert 0.2 < recall(few.search(QUERIES, 100), expected) < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rescore", [0, 64])
def test_equal_scores_are_in_order_of_rows_and_lower_rows_win(
    kind: CodecKind, rescore: int, tmp_path: Path
) -> None:
    index = build(tmp_path, VECTORS, kind, rescore=rescore)
    hits = index.search(VECTORS[7].unsqueeze(0), 30)
    twins = [7, *range(20, 60)]
    found = [row for row in hits.rows[0].tolist() if row in twins]
    assert found == twins[: len(found)]
    assert len(found) > 20
    scores = hits.scores[0]
    assert (scores.diff() <= 0).all()
    is_tied = scores.diff() == 0
    assert (hits.rows[0].diff()[is_tied] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_more_hits_than_lists_hold_are_padded(kind: CodecKind, tmp_path: Path) -> None:
    shard = build(tmp_path, VECTORS, kind, nprobe=1, nlist=20).shard
    scores, rows = shard.search(QUERIES, COUNT + 5)
    is_row = rows >= 0
    assert (rows[:, -5:] == -1).all()
    assert is_row.any(dim=1).all()
    assert scores[is_row].isfinite().all()
    assert (scores[~is_row] == float("-inf")).all()
    for line, real in zip(rows, is_row, strict=True):
        assert len(set(line[real].tolist())) == int(real.sum())
        assert real.tolist() == sorted(real.tolist(), reverse=True)


def test_no_queries_have_no_hits(tmp_path: Path) -> None:
    for rescore in (0, 20):
        shard = build(tmp_path, VECTORS, "pq", rescore=rescore).shard
        assert shard.search(torch.zeros(0, DIM), 3)[1].shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 17, 300])
def test_any_small_corpus_can_be_searched(kind: CodecKind, count: int, tmp_path: Path) -> None:
    vectors = clustered(count, DIM)
    hits = build(tmp_path, vectors, kind, nprobe=1000, rescore=count).search(QUERIES, 400)
    assert hits.rows.shape == (len(QUERIES), count)
    assert torch.equal(hits.rows, exact(vectors, max(1, count)).rows)


def test_vectors_that_are_all_the_same_can_be_searched(tmp_path: Path) -> None:
    for kind in KINDS:
        hits = build(tmp_path, torch.ones(600, DIM), kind).search(QUERIES[:3], 20)
        assert hits.rows.tolist() == [list(range(20))] * 3


# ---- how it is built


def test_the_vectors_are_kept_where_they_are(tmp_path: Path) -> None:
    builder = compressor(tmp_path, "pq")
    mapped = builder.allocate()
    mapped[:] = VECTORS
    shard = builder(mapped)
    assert shard.vectors.data_ptr() == mapped.data_ptr()
    assert shard.device == torch.device("cpu")
    with pytest.raises(ValueError, match="1500 codes for 3 vectors"):
        CompressedShard(
            VECTORS[:3], shard.index, shard.codec, quantiser=b"", settings=CodecSettings(kind="pq")
        )


@pytest.mark.parametrize("kind", KINDS)
def test_building_twice_gives_the_same_index(kind: CodecKind, tmp_path: Path) -> None:
    first, second = (build(tmp_path, VECTORS, kind, rescore=0) for _ in range(2))
    hits, again = first.search(QUERIES, 10), second.search(QUERIES, 10)
    assert torch.equal(hits.rows, again.rows)
    assert torch.equal(hits.scores, again.scores)


def test_rows_are_added_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tmp_path, VECTORS, "ivfpq", rescore=0).search(QUERIES, 10)
    monkeypatch.setattr(faiss_codec, "BLOCK_ROWS", 97)
    assert torch.equal(
        build(tmp_path, VECTORS, "ivfpq", rescore=0).search(QUERIES, 10).rows, whole.rows
    )


def test_the_sample_is_spread_evenly() -> None:
    assert sample_rows(10, 10).tolist() == list(range(10))
    assert sample_rows(10, 4).tolist() == [0, 2, 5, 7]
    assert sample_rows(0, 0).tolist() == []
    rows = sample_rows(1_000_003, 65_536)
    assert rows.diff().unique().tolist() == [15, 16]


def test_training_sees_a_bounded_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def counted(codec: Codec, sample: Tensor) -> bytes:
        seen.append(len(sample))
        return train_codec(codec, sample)

    monkeypatch.setattr(faiss_codec, "train_codec", counted)
    monkeypatch.setattr("gazetteer.index.codec.LEAST_SAMPLE", 700)
    build(tmp_path, VECTORS, "pq")
    build(tmp_path, VECTORS, "ivfpq", nlist=20)
    assert seen == [700, 1280]


def test_without_faiss_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faiss_codec.load_faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(OptionError) as caught:
        compressor(tmp_path, "pq")
    assert str(caught.value) == (
        "--index_mode faiss needs the package faiss, which is not installed: pip install"
        " 'gazetteer[cpu]', or 'gazetteer[gpu]' for GPUs"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_finds_the_same(kind: CodecKind, tmp_path: Path) -> None:
    import faiss

    if not torch.cuda.is_available() or not hasattr(faiss, "StandardGpuResources"):
        pytest.skip("no GPU, or a faiss without")
    builder = Compressor(
        CodecSettings(kind=kind, rescore=200, nprobe=1000),
        count=COUNT,
        dim=DIM,
        ranks=Ranks(device=torch.device("cuda", 0)),
        folder=tmp_path,
        show_progress=False,
    )
    index = ShardedIndex(COUNT, Ranks(), VECTORS, build_shard=builder)
    assert recall(index.search(QUERIES.cuda(), 10), exact(VECTORS, 10)) > 0.99


# ---- codes and bytes


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith(("sq", "pq"))])
@pytest.mark.parametrize("nlist", [3, 300])
def test_codes_are_those_faiss_makes_and_make_the_same_index(
    kind: CodecKind, nlist: int, tmp_path: Path
) -> None:
    shard = build(tmp_path, VECTORS, kind, nlist=nlist).shard
    assert isinstance(shard, CompressedShard)
    codes = codes_of(shard.index, shard.codec)
    assert codes.numpy().tobytes() == shard.index.sa_encode(VECTORS.numpy()).tobytes()
    again = read_codec(shard.codec, shard.quantiser)
    for part in codes.split(400):
        add_codes(again, shard.codec, part)
    for first, second in zip(
        shard.index.search(QUERIES.numpy(), 10), again.search(QUERIES.numpy(), 10), strict=True
    ):
        assert (first == second).all()


def trained(kind: CodecKind) -> tuple[Codec, bytes]:
    code_size = {"flat": 4 * DIM, "ivfflat": 4 * DIM, "sq": DIM, "ivfsq": DIM}.get(kind, 4)
    nlist = 5 if kind.startswith("ivf") else 0
    codec = Codec(kind=kind, dim=DIM, code_size=code_size, nlist=nlist)
    return codec, train_codec(codec, VECTORS)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_quantiser_that_was_asked_for_is_read(kind: CodecKind) -> None:
    codec, content = trained(kind)
    assert read_codec(codec, content).ntotal == 0
    for other in KINDS:
        if other == kind:
            continue
        with pytest.raises(DamagedCodecError, match="begins with b'"):
            read_codec(trained(other)[0], content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 32}, "dimension 16, expected 32"),
        ({"nlist": 6}, "lists 5, expected 6"),
        ({"code_size": 8}, "bytes 4, expected 8"),
    ],
)
def test_a_quantiser_of_another_shape_is_refused(changes: dict[str, int], message: str) -> None:
    _, content = trained("ivfpq")
    settings = {"dim": DIM, "code_size": 4, "nlist": 5} | changes
    with pytest.raises(DamagedCodecError, match=message):
        read_codec(Codec(kind="ivfpq", **settings), content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantiser_cut_short_is_refused_by_faiss_and_said_in_one_line(kind: CodecKind) -> None:
    codec, content = trained(kind)
    for size in (0, 3, 4, 20, len(content) // 2, len(content) - 1):
        with pytest.raises(DamagedCodecError) as caught:
            read_codec(codec, content[:size])
        assert "\n" not in str(caught.value)


def test_a_filled_index_is_no_quantiser(tmp_path: Path) -> None:
    import faiss

    shard = build(tmp_path, VECTORS, "pq").shard
    assert isinstance(shard, CompressedShard)
    with pytest.raises(DamagedCodecError, match="rows 1500, expected 0"):
        read_codec(shard.codec, faiss.serialize_index(shard.index).tobytes())


def test_limits_of_faiss_s_reader_are_put_back() -> None:
    import faiss

    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    codec, content = trained("pq")
    read_codec(codec, content)
    with pytest.raises(DamagedCodecError):
        read_codec(codec, content[:50])
    assert before == (
        faiss.get_deserialization_vector_byte_limit(),
        faiss.get_deserialization_loop_limit(),
    )


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(3, 4, dtype=torch.uint8), r"shape \(3, 4\); ivfpq, 4 bytes, 5 lists has 5"),
        (torch.zeros(3, 5, dtype=torch.int32), "codes of torch.int32"),
        (torch.full((3, 5), 5, dtype=torch.uint8), "a row in list 5 of 5"),
    ],
)
def test_codes_of_another_quantiser_are_refused(codes: Tensor, message: str) -> None:
    codec, content = trained("ivfpq")
    with pytest.raises(DamagedCodecError, match=message):
        add_codes(read_codec(codec, content), codec, codes)
