"""Examples to learn from and examples to be judged on, with no article or paragraph in common."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from gazetteer.compress.qa_examples import Example
from gazetteer.errors import DataError

HELD_OUT = 0.1


def split(
    pools: Mapping[str, Sequence[Example]], wanted: Mapping[str, int], seed: int
) -> tuple[list[tuple[str, Example]], list[tuple[str, Example]]]:
    """Draw examples of several sets, nine in ten to learn from.

    Whole groups are held out: examples that share an article or a paragraph, directly or through
    others, stay on one side. Each set has its share on both sides.

    Args:
        pools: examples by set, as many as there are.
        wanted: how many of each set, both sides together.
        seed: of every choice.

    Returns:
        The examples to learn from and those to be judged on, each with the name of its set, in an
        order that says nothing. Where a pool is too small, there are fewer than wanted.

    Raises:
        DataError: all examples hang together, so that none can be held out.
    """
    generator = random.Random(seed)
    every = [(name, example) for name, pool in pools.items() for example in pool]
    counts = {name: min(wanted[name], len(pools[name])) for name in pools}
    held = {name: max(1, round(count * HELD_OUT)) for name, count in counts.items() if count}
    groups = _groups([example for _, example in every])
    generator.shuffle(groups)
    tested, learned = _assign(groups, [name for name, _ in every], counts, held)
    chosen: tuple[list[int], list[int]] = ([], [])
    for name in held:
        judged = [place for place in tested if every[place][0] == name]
        rest = [place for place in learned if every[place][0] == name]
        judged = generator.sample(judged, min(held[name], len(judged)))
        chosen[1].extend(judged)
        chosen[0].extend(generator.sample(rest, min(counts[name] - len(judged), len(rest))))
    for side in chosen:
        generator.shuffle(side)
    parts = [every[place] for place in chosen[0]], [every[place] for place in chosen[1]]
    if not all(parts):
        raise DataError(
            f"found {len(every)} examples that all hang together by their passages, so that none "
            "can be held out; expected several documents"
        )
    refuse_leak([each for _, each in parts[0]], [each for _, each in parts[1]])
    return parts


def _assign(
    groups: Sequence[Sequence[int]],
    names: Sequence[str],
    counts: Mapping[str, int],
    held: Mapping[str, int],
) -> tuple[list[int], list[int]]:
    """Places held out and places to learn from: a tenth of the groups, and enough examples."""
    members = [Counter(names[place] for place in group) for group in groups]
    groups_of = Counter(name for each in members for name in each)
    left = Counter(names)
    tested: list[int] = []
    learned: list[int] = []
    examples: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for group, sizes in zip(groups, members, strict=True):
        is_wanted = any(
            examples[name] < held[name] or taken[name] < groups_of[name] * HELD_OUT
            for name in sizes
            if name in held
        )
        is_spare = all(
            left[name] - size >= counts[name] - held[name] for name, size in sizes.items()
        )
        if is_wanted and is_spare:
            tested += group
            examples += sizes
            taken += Counter(dict.fromkeys(sizes, 1))
            left -= sizes
        else:
            learned += group
    return tested, learned


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Places of examples that hang together by what their passages are parts of."""
    parents = list(range(len(examples)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    first: dict[str, int] = {}
    for place, example in enumerate(examples):
        for source in sorted(example.sources):
            parents[root(place)] = root(first.setdefault(source, place))
    groups: dict[int, list[int]] = {}
    for place in range(len(examples)):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def refuse_leak(learned: Sequence[Example], judged: Sequence[Example]) -> None:
    """Raise DataError where a part to be judged on shares an article or a paragraph with the other.

    Raises:
        DataError: naming the first thing shared.
    """
    known = {source for example in learned for source in example.sources}
    for example in judged:
        shared = sorted(example.sources & known)
        if shared:
            raise DataError(
                f"the question {example.query!r} to be judged on shares {shared[0][:80]!r} with "
                "what is learned"
            )
