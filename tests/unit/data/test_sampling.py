"""Who reads what: the same global batches for any number of ranks, every example once an epoch."""

from __future__ import annotations

from itertools import zip_longest

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gazetteer.data.sampling import Draw, draw_step, epoch_order, evaluation_batches

counts = st.integers(1, 40)
seeds = st.integers(0, 2**31)
worlds = st.sampled_from([(1, 12), (2, 6), (3, 4), (4, 3), (6, 2), (12, 1)])


def _global_batch(
    position: int, count: int, batch_size: int, world_size: int, seed: int, shuffle: bool
) -> list[Draw]:
    """What all ranks read together, in the order of the stream."""
    shares = [
        draw_step(
            position,
            count=count,
            size=batch_size * world_size,
            rank=rank,
            world_size=world_size,
            seed=seed,
            shuffle=shuffle,
        )[0].draws
        for rank in range(world_size)
    ]
    assert all(len(share) == batch_size for share in shares)
    return [draw for turn in zip(*shares, strict=True) for draw in turn]


@given(counts, st.integers(0, 200), worlds, seeds, st.booleans())
def test_global_batches_are_the_same_for_any_world_size(
    count: int, position: int, world: tuple[int, int], seed: int, shuffle: bool
) -> None:
    world_size, batch_size = world
    alone = _global_batch(position, count, 12, 1, seed, shuffle)
    assert _global_batch(position, count, batch_size, world_size, seed, shuffle) == alone


@given(counts, st.integers(1, 5), st.integers(1, 4), seeds, st.booleans())
def test_each_epoch_reads_each_example_once(
    count: int, batch_size: int, world_size: int, seed: int, shuffle: bool
) -> None:
    draws: list[Draw] = []
    while len(draws) < 3 * count:
        draws += _global_batch(len(draws), count, batch_size, world_size, seed, shuffle)
    for epoch in range(3):
        read = draws[epoch * count : (epoch + 1) * count]
        assert sorted(draw.index for draw in read) == list(range(count))
        assert {draw.epoch for draw in read} == {epoch}


@given(counts, st.integers(0, 100), st.integers(1, 30), seeds)
def test_stream_goes_on_from_any_position(count: int, position: int, done: int, seed: int) -> None:
    whole = _global_batch(position, count, done + 7, 1, seed, True)
    assert _global_batch(position + done, count, 7, 1, seed, True) == whole[done:]


@given(counts, st.integers(0, 100), st.integers(1, 50))
def test_without_shuffling_examples_come_in_order(count: int, position: int, size: int) -> None:
    draws = _global_batch(position, count, size, 1, 0, False)
    assert [draw.index for draw in draws] == [(position + n) % count for n in range(size)]


LEGS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 9)), max_size=6)
"""Of a run that is stopped again and again: workers, examples each reads at once, steps."""


@settings(max_examples=40)
@given(counts, st.integers(1, 13), LEGS, seeds, st.booleans())
def test_a_run_on_changing_numbers_of_workers_reads_what_one_worker_reads(
    count: int, size: int, legs: list[tuple[int, int, int]], seed: int, shuffle: bool
) -> None:
    alone: list[Draw] = []
    read: list[Draw] = []
    for world_size, at_once, steps in [*legs, (3, 2, 1 + 2 * count // size)]:
        passes = -(-size // (at_once * world_size))
        for _ in range(steps):
            position = len(read)
            stream = {"count": count, "size": size, "seed": seed, "shuffle": shuffle}
            (whole,) = draw_step(position, rank=0, world_size=1, **stream)
            alone += whole.draws
            shares = [
                draw_step(position, passes=passes, rank=rank, world_size=world_size, **stream)
                for rank in range(world_size)
            ]
            for together in zip(*shares, strict=True):
                parts = [each.draws for each in together]
                assert max(map(len, parts)) <= at_once
                assert {each.together for each in together} == {sum(map(len, parts))}
                read += [d for turn in zip_longest(*parts) for d in turn if d is not None]
    assert read == alone
    for epoch in range(len(read) // count):
        indices = [draw.index for draw in read if draw.epoch == epoch]
        assert sorted(indices) == list(range(count))


@given(st.integers(30, 60), seeds, st.integers(0, 5))
def test_orders_differ_by_epoch_and_seed_and_nothing_else(
    count: int, seed: int, epoch: int
) -> None:
    order = epoch_order(count, epoch, seed, True).tolist()
    epoch_order.cache_clear()
    assert epoch_order(count, epoch, seed, True).tolist() == order
    assert epoch_order(count, epoch + 1, seed, True).tolist() != order
    assert epoch_order(count, epoch, seed + 1, True).tolist() != order
    assert order != list(range(count))


@given(st.integers(0, 60), st.integers(1, 7), st.integers(1, 5))
def test_evaluation_reads_every_example_once_in_order(
    count: int, batch_size: int, world_size: int
) -> None:
    ranks = [
        evaluation_batches(count, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    in_order: list[int] = []
    for batches in zip(*ranks, strict=True):
        assert all(len(batch) <= batch_size for batch in batches)
        in_order += sorted(index for batch in batches for index in batch)
    assert in_order == list(range(count))


@given(st.integers(1, 60), st.integers(1, 7), st.integers(1, 5))
def test_evaluation_shares_differ_by_one_at_most(
    count: int, batch_size: int, world_size: int
) -> None:
    assume(world_size > 1)
    for number in range(-(-count // (batch_size * world_size))):
        sizes = [
            len(
                evaluation_batches(count, batch_size=batch_size, rank=r, world_size=world_size)[
                    number
                ]
            )
            for r in range(world_size)
        ]
        assert max(sizes) - min(sizes) <= 1


def test_nothing_to_evaluate_is_no_batch() -> None:
    assert evaluation_batches(0, batch_size=4, rank=0, world_size=2) == []


@pytest.mark.parametrize("world_size", [1, 2])
def test_epoch_ends_inside_a_batch(world_size: int) -> None:
    draws = _global_batch(4, 5, 4 // world_size, world_size, 0, False)
    assert draws == [Draw(4, 0), Draw(0, 1), Draw(1, 1), Draw(2, 1)]
