from __future__ import annotations

import logging
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.errors import OptionError
from gazetteer.index.codec import (
    Codec,
    CodecKind,
    CodecSettings,
    allowed_code_sizes,
    candidates_for,
    plan_codec,
    probed_lists,
)
from gazetteer.options import FaissIndexType

KINDS = get_args(CodecKind)


def plan(kind: CodecKind, count: int = 100_000, dim: int = 768, **asked: int) -> Codec:
    return plan_codec(CodecSettings(kind=kind, **asked), count=count, dim=dim)


def test_the_flag_and_the_index_know_the_same_kinds() -> None:
    assert set(get_args(FaissIndexType)) == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "factory"),
    [
        ("flat", "Flat"),
        ("sq", "SQ8"),
        ("pq", "PQ96np"),
        ("pqfs", "PQ192x4fs"),
        ("ivfflat", "IVF316,Flat"),
        ("ivfsq", "IVF316,SQ4"),
        ("ivfpq", "IVF316,PQ96np"),
        ("ivfpqfs", "IVF316,PQ192x4fs"),
    ],
)
def test_each_kind_is_made_by_faiss_s_factory_without_polysemous_training(
    kind: CodecKind, factory: str
) -> None:
    assert plan(kind).factory == factory


@pytest.mark.parametrize(
    ("kind", "code_size", "factory"),
    [
        ("sq", 384, "SQ4"),
        ("sq", 576, "SQ6"),
        ("sq", 1536, "SQfp16"),
        ("ivfsq", 768, "IVF10,SQ8"),
        ("pq", 64, "PQ64np"),
        ("pqfs", 48, "PQ96x4fs"),
        ("ivfpq", 1, "IVF10,PQ1np"),
        ("flat", 5, "Flat"),
    ],
)
def test_code_size_and_lists_can_be_chosen(kind: CodecKind, code_size: int, factory: str) -> None:
    codec = plan(kind, code_size=code_size, nlist=10)
    assert codec.factory == factory
    assert codec.code_size == (4 * 768 if kind == "flat" else code_size)


@pytest.mark.parametrize(
    ("kind", "code_size", "allowed"),
    [
        ("pq", 5, "1, 2, 3, 4, 6, 12"),
        ("ivfpq", 24, "1, 2, 3, 4, 6, 12"),
        ("pqfs", 4, "1, 2, 3, 6"),
        ("sq", 7, "6, 9, 12, 24"),
    ],
)
def test_a_code_size_that_does_not_suit_the_dimension_is_refused_with_those_that_do(
    kind: CodecKind, code_size: int, allowed: str
) -> None:
    with pytest.raises(OptionError) as caught:
        plan(kind, dim=12, code_size=code_size)
    assert str(caught.value) == (
        f"--faiss_code_size ({code_size}) must suit --faiss_index_type {kind} and embeddings of"
        f" dimension 12: one of {allowed}"
    )


def test_fast_scan_needs_an_even_dimension() -> None:
    with pytest.raises(OptionError, match=r"^--faiss_index_type \(pqfs\) needs .* even .* got 15"):
        plan("pqfs", dim=15)


@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(0, 10**8),
    half_dim=st.integers(1, 600),
    nlist=st.none() | st.integers(1, 10**6),
)
def test_any_corpus_gets_a_codec_that_can_be_trained_on_it(
    kind: CodecKind, count: int, half_dim: int, nlist: int | None
) -> None:
    codec = plan_codec(CodecSettings(kind=kind, nlist=nlist), count=count, dim=2 * half_dim)
    sample = codec.sample_size(count)
    assert codec.kind in (kind, "flat")
    if codec.kind == "flat":
        assert codec.nlist == 0
        return
    assert codec.code_size in allowed_code_sizes(kind, 2 * half_dim)
    assert sample <= count
    assert sample >= {"pq": 256, "pqfs": 16}.get(codec.code, 1)
    assert codec.has_lists == (codec.nlist > 0)
    assert codec.nlist <= sample
    assert sample <= max(65_536, 64 * codec.nlist)


@pytest.mark.parametrize(
    ("kind", "count"), [("pq", 255), ("ivfpq", 255), ("pqfs", 15), ("ivfpqfs", 0), ("sq", 0)]
)
def test_a_corpus_too_small_to_train_on_is_kept_as_it_is_with_one_line(
    kind: CodecKind, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert plan(kind, count=count).kind == "flat"
    assert [record.message for record in caplog.records] == [
        f"--faiss_index_type {kind}: {count} passages are too few to train it on; kept as they are"
    ]
    caplog.clear()
    assert plan(kind, count=256).kind == kind
    assert not caplog.records


def test_there_are_never_more_lists_than_passages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert plan("ivfflat", count=5, nlist=9).nlist == 5
    assert caplog.messages == ["--faiss_nlist 9: more than there are passages, so 5"]
    assert plan("ivfflat", count=5).nlist == 2


@pytest.mark.parametrize(
    ("nlist", "nprobe", "probed"),
    [(8, None, 8), (167, None, 32), (1000, None, 125), (167, 5, 5), (167, 1000, 167)],
)
def test_lists_searched(nlist: int, nprobe: int | None, probed: int) -> None:
    asked = CodecSettings(kind="ivfflat", nprobe=nprobe)
    codec = Codec(kind="ivfflat", dim=8, code_size=32, nlist=nlist)
    assert probed_lists(asked, codec) == probed


@pytest.mark.parametrize(
    ("kind", "rescore", "candidates"),
    [
        ("pq", None, 40),
        ("pq", 0, None),
        ("pq", 7, 10),
        ("pq", 70, 70),
        ("flat", 0, 26),
        ("flat", None, 26),
        ("flat", 70, 70),
    ],
)
def test_candidates_for_ten_hits(
    kind: CodecKind, rescore: int | None, candidates: int | None
) -> None:
    codec = Codec(kind=kind, dim=8, code_size=8, nlist=0)
    assert candidates_for(CodecSettings(kind=kind, rescore=rescore), codec, 10) == candidates
