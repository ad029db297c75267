import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gazetteer.data.passages import PassageStore, write_passages
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import PassageTokens
from gazetteer.index import ShardedIndex
from gazetteer.indexing.embedding import RowEmbedder
from gazetteer.records import Hits, Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, TextEncoder
from gazetteer.selection import Selector
from gazetteer.selection import select as select_module
from gazetteer.selection.filter import drop_hits, forbidden_hits
from gazetteer.selection.rerank import rerank
from gazetteer.stats import Stopwatch
from tests.support.tiny_data import passages
from tests.support.tiny_models import retriever_tokenizer, tiny_bert


def hits(*rows: list[int]) -> Hits:
    table = torch.tensor(rows)
    return Hits(table, torch.arange(table.shape[1], 0, -1.0).expand(table.shape).contiguous())


def ids(rows: np.ndarray) -> list[str]:
    return [f"p{row}" for row in rows]


def test_forbidden_passages_are_dropped_and_the_order_kept() -> None:
    found = hits([3, 5, 7], [5, 3, 9])
    marks = forbidden_hits(found, ["p5", None], ids)
    kept = drop_hits(found, marks, 2)
    assert kept.rows.tolist() == [[3, 7], [5, 3]]
    assert kept.scores.tolist() == [[3.0, 1.0], [3.0, 2.0]]


def test_a_query_with_too_few_allowed_passages_is_filled_up_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = hits([3, 5])
    with caplog.at_level(logging.WARNING):
        kept = drop_hits(found, forbidden_hits(found, ["p3"], ids), 2)
    assert kept.rows.tolist() == [[5, 3]]
    assert "filtering_overretrieve_ratio" in caplog.text


class World:
    """A retriever, a corpus and an index over it."""

    def __init__(self, folder: Path) -> None:
        self.corpus: PassageStore = write_passages(passages(30), folder / "corpus")
        tower = TextEncoder(tiny_bert(), pooling="mean", normalize=False)
        self.retriever = DualEncoder(tower, tower, EmbeddingBatch())
        self.tokens = PassageTokens(
            self.corpus,
            retriever_tokenizer(),
            PassageTemplate.parse("{title} {text}"),
            max_tokens=40,
            cache_dir=folder / "cache",
        )
        self.index = ShardedIndex(self.corpus.count, Ranks())
        self.vectors = torch.empty(self.corpus.count, tower.embedding_dim)
        rows, batch = range(self.corpus.count), EmbeddingBatch()
        RowEmbedder(tower, self.tokens, rows, batch, out=self.vectors, chunks=None).embed_all(
            show_progress=False
        )
        self.index.replace(self.vectors)
        self.queries = torch.randn(4, 32)

    def selector(self, **settings: int) -> Selector:
        return Selector(
            retriever=self.retriever,
            index=self.index,
            corpus=self.corpus,
            passage_tokens=self.tokens,
            **settings,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_search_and_filter_are_timed_without_reranking(world: World, monkeypatch) -> None:
    running: list[str] = []

    class Recording(Stopwatch):
        @contextmanager
        def time(self, name: str) -> Iterator[None]:
            running.append(name)
            yield
            running.remove(name)

    seen: dict[str, list[str]] = {}

    def watch(name: str) -> None:
        original = getattr(select_module, name)

        def watched(*args: Any) -> Any:
            seen[name] = list(running)
            return original(*args)

        monkeypatch.setattr(select_module, name, watched)

    watch("drop_hits")
    watch("rerank")
    selector = world.selector(candidates=10, over_retrieval=2)
    selector.select(world.queries, 3, [None] * 4, Recording())
    assert seen == {"drop_hits": ["runtime/search"], "rerank": []}


def test_reranking_a_fresh_index_changes_nothing(world: World) -> None:
    plain = world.selector().select(world.queries, 3)
    again = world.selector(candidates=10).select(world.queries, 3)
    assert again.rows.tolist() == plain.rows.tolist()
    torch.testing.assert_close(again.scores, plain.scores, rtol=1e-4, atol=1e-5)


def test_reranking_repairs_a_stale_index(world: World) -> None:
    fresh = world.selector().select(world.queries, 3)
    world.index.replace(world.vectors + 0.2 * torch.randn_like(world.vectors))
    stale = world.selector().select(world.queries, 3)
    repaired = world.selector(candidates=30).select(world.queries, 3)
    assert stale.rows.tolist() != fresh.rows.tolist()
    assert repaired.rows.tolist() == fresh.rows.tolist()


def test_more_candidates_than_passages_are_no_problem(world: World) -> None:
    found = world.selector(candidates=1000).select(world.queries, 50)
    assert found.rows.shape == (4, 30)


def test_each_candidate_is_embedded_once(world: World) -> None:
    embedded: list[int] = []
    original = world.tokens.passage_inputs
    world.tokens.passage_inputs = lambda rows: embedded.extend(rows) or original(rows)  # type: ignore[method-assign]
    candidates = hits([1, 2, 3], [3, 2, 1])
    rerank(candidates, torch.randn(2, 32), world.retriever, world.tokens, 2)
    assert sorted(embedded) == [1, 2, 3]


def test_over_retrieval_makes_up_for_what_is_filtered(world: World) -> None:
    plain = world.selector().select(world.queries, 4)
    banned = world.corpus.ids(plain.rows[:, 0].numpy())
    filtered = world.selector(over_retrieval=2).select(world.queries, 3, banned)
    assert filtered.rows.tolist() == plain.rows[:, 1:].tolist()


def test_no_query_selects_nothing(world: World) -> None:
    for selector in (
        world.selector(),
        world.selector(candidates=5),
        world.selector(over_retrieval=2),
    ):
        assert selector.select(torch.zeros(0, 32), 3).rows.shape == (0, 3)
