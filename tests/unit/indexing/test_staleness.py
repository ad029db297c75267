"""The staleness meter over a small world, beside the same numbers worked out by hand."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity

from gazetteer.indexing import StalenessMeter
from tests.support.tiny_models import retriever_tokenizer
from tests.unit.selection.test_selection import World

QUERIES = [retriever_tokenizer()(text)["input_ids"] for text in ("the king", "capital of peru")]


def meter(world: World, sample: int, top_k: int) -> StalenessMeter:
    return StalenessMeter(world.index, world.retriever, world.tokens, sample, top_k)


def test_an_index_of_the_current_weights_is_fresh(tmp_path: Path) -> None:
    found = meter(World(tmp_path), 8, 3).measure(QUERIES)
    assert found.drift == pytest.approx(0, abs=1e-6)
    assert found.overlap == 1
    assert found.numbers().keys() == {"index/drift", "index/overlap"}


def test_drift_and_overlap_of_an_old_index(tmp_path: Path) -> None:
    world = World(tmp_path)
    old = world.vectors + torch.randn_like(world.vectors)
    world.index.replace(old)
    found = meter(world, 10_000, 2).measure(QUERIES)
    asked = world.retriever.embed_for_search(QUERIES)
    assert found.drift == pytest.approx(float(1 - cosine_similarity(old, world.vectors).mean()))
    shared = [
        set((q @ old.T).topk(2).indices.tolist())
        & set((q @ world.vectors.T).topk(2).indices.tolist())
        for q in asked
    ]
    assert found.overlap == pytest.approx(sum(map(len, shared)) / 4)
    assert found.overlap < 1


def test_a_sample_is_the_same_rows_each_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.index.replace(world.vectors + 0.3 * torch.randn_like(world.vectors))
    small = meter(world, 5, 2)
    assert small.measure(QUERIES) == small.measure(QUERIES)
    assert small.measure(QUERIES).drift != meter(world, 10_000, 2).measure(QUERIES).drift
