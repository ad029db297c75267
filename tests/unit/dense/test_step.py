"""One dense step on one rank: losses put together, and GradCache against the whole batch."""

import pytest
import torch

from gazetteer.dense.grad_cache import ChunkSizes, embed_in_chunks
from gazetteer.dense.step import DenseLesson, DenseStep
from gazetteer.dense.towers import Towers
from gazetteer.losses.contrastive import contrastive_loss
from tests.support.dense_batches import PASSAGES, dense_batch, tiny_retriever

BATCH = dense_batch(range(5), scored=True)


def gradients(module):
    """All gradients of a module as one vector."""
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def learn(lesson, chunks=None, batch=BATCH, dtype=torch.float32, **kind):
    """Loss and gradients of one step."""
    towers = Towers(tiny_retriever(**kind)).to(dtype)
    loss, stats = DenseStep(towers, lesson, chunks)(batch)
    loss.backward()
    return loss.item(), gradients(towers), stats


def lesson(loss="infonce", **settings):
    return DenseLesson(loss=loss, passages=PASSAGES, **settings)


def test_every_passage_of_the_batch_is_a_candidate():
    retriever = tiny_retriever()
    found, _, stats = learn(lesson(temperature=0.3))
    queries = retriever.embed_queries(BATCH.query_tokens)
    passages = retriever.embed_passages(BATCH.passage_tokens)
    positives = torch.arange(5) * PASSAGES
    expected = contrastive_loss(queries @ passages.T, positives, temperature=0.3).item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert float(stats["loss/train_loss"]) == pytest.approx(expected, rel=1e-5)


def test_what_is_known_to_answer_a_query_is_no_negative_of_it():
    retriever = tiny_retriever()
    found, _, stats = learn(lesson(), batch=dense_batch(range(5), keyed=True))
    queries = retriever.embed_queries(BATCH.query_tokens)
    passages = retriever.embed_passages(BATCH.passage_tokens)
    excluded = torch.zeros(5, 5 * PASSAGES, dtype=torch.bool)
    excluded[torch.arange(4), PASSAGES * torch.arange(1, 5)] = True
    expected = contrastive_loss(
        queries @ passages.T, torch.arange(5) * PASSAGES, temperature=1.0, excluded=excluded
    )
    assert found == pytest.approx(expected.item(), rel=1e-5)
    assert found < learn(lesson())[0] - 1e-3
    assert stats["loss/known_positives"] == 4 / 5


@pytest.mark.parametrize("loss", ["margin_mse", "kl"])
def test_a_teacher_judges_the_own_passages_of_a_query_alone(loss):
    alone = [
        learn(lesson(loss), batch=dense_batch(range(number, number + 1), scored=True))[0]
        for number in range(5)
    ]
    assert learn(lesson(loss))[0] == pytest.approx(sum(alone) / 5, rel=1e-4)


def test_embedding_sizes_are_added_up():
    apart = [learn(lesson(dims=(dim,)), normalize=True) for dim in (32, 8)]
    loss, gradient, _ = learn(lesson(dims=(32, 8)), normalize=True)
    assert loss == pytest.approx(sum(part[0] for part in apart), rel=1e-5)
    torch.testing.assert_close(gradient, apart[0][1] + apart[1][1], rtol=1e-4, atol=1e-6)


def test_the_whole_embedding_is_one_of_the_sizes():
    whole, cut = learn(lesson(normalizes=True), normalize=True), learn(lesson(), normalize=True)
    assert whole[0] == pytest.approx(cut[0], rel=1e-5)


@pytest.mark.parametrize("loss", ["infonce", "margin_mse", "kl"])
@pytest.mark.parametrize("chunks", [ChunkSizes(1, 2), ChunkSizes(2, 40), ChunkSizes(5, 15)])
def test_grad_cache_gives_the_gradients_of_the_whole_batch(loss, chunks):
    # In float32 the order of additions alone is more than the bound, on some versions of torch.
    expected_loss, expected, _ = learn(lesson(loss), dtype=torch.float64)
    found_loss, found, _ = learn(lesson(loss), chunks, dtype=torch.float64)
    assert found_loss == pytest.approx(expected_loss, rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_grad_cache_hides_the_same_states_twice():
    """With dropout, its gradients are those of the same chunks embedded once, with their graphs."""
    sizes = ChunkSizes(2, 7)
    towers = Towers(tiny_retriever(dropout=0.3))
    torch.manual_seed(5)
    cached = embed_in_chunks(towers, BATCH.query_tokens, BATCH.passage_tokens, sizes)
    drawn_after = torch.rand(1)
    sum(part.square().sum() for part in cached).backward()
    found = gradients(towers)
    towers.zero_grad()
    torch.manual_seed(5)
    queries, passages = BATCH.query_tokens, BATCH.passage_tokens
    parts = [towers(queries[i : i + 2], passages[j : j + 7]) for i, j in ((0, 0), (2, 7), (4, 14))]
    assert torch.equal(torch.rand(1), drawn_after)
    expected = [torch.cat(part) for part in zip(*parts, strict=True)]
    for one, other in zip(cached, expected, strict=True):
        assert torch.equal(one, other)
    sum(part.square().sum() for part in expected).backward()
    torch.testing.assert_close(found, gradients(towers), rtol=1e-5, atol=1e-6)


def test_the_second_pass_leaves_the_random_state_alone():
    towers = Towers(tiny_retriever(dropout=0.3))
    cached = embed_in_chunks(towers, BATCH.query_tokens, BATCH.passage_tokens, ChunkSizes(1, 1))
    before = torch.get_rng_state()
    cached[0].sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_without_queries_costs_nothing_but_has_gradients():
    for chunks in (None, ChunkSizes(2, 2)):
        loss, found, _ = learn(lesson(), chunks, batch=dense_batch(range(0)))
        assert loss == 0
        assert found.abs().max() == 0


def test_a_frozen_passage_tower_gets_no_gradient():
    for chunks in (None, ChunkSizes(2, 2)):
        retriever = tiny_retriever()
        retriever.freeze_passage_tower()
        loss, _ = DenseStep(Towers(retriever), lesson(), chunks)(BATCH)
        loss.backward()
        assert all(p.grad is None for p in retriever.passage_tower.parameters())
        assert any(p.grad is not None for p in retriever.query_tower.parameters())
