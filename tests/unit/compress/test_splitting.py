"""Nine in ten to learn from, one to be judged on, and no article or paragraph on both sides."""

from __future__ import annotations

from collections import Counter

import pytest

from gazetteer.compress.qa_examples import Example
from gazetteer.compress.splitting import refuse_leak, split
from gazetteer.errors import DataError


def pool(name: str, count: int, per_article: int) -> list[Example]:
    """Questions about articles, in order of article, as SQuAD has them."""
    return [
        Example(
            f"{name} {number}",
            (f"text {number}",),
            ("a",),
            frozenset({f"title {name} {number // per_article}", f"text {name} {number}"}),
        )
        for number in range(count)
    ]


def test_exactly_so_many_and_no_article_on_both_sides() -> None:
    pools = {"squad": pool("s", 960, 20)}
    learned, judged = split(pools, {"squad": 500}, seed=0)
    assert (len(learned), len(judged)) == (450, 50)
    articles = [{int(e.query.split()[1]) // 20 for _, e in part} for part in (learned, judged)]
    assert not articles[0] & articles[1]
    # Not the last rows, nor one article, nor in the order of the file.
    assert len(articles[1]) >= 4 and min(articles[1]) < 40
    numbers = [int(each.query.split()[1]) for _, each in learned]
    assert numbers != sorted(numbers)
    assert split(pools, {"squad": 500}, seed=0) == (learned, judged)
    assert split(pools, {"squad": 500}, seed=1) != (learned, judged)


def test_each_set_has_its_share_on_both_sides() -> None:
    sizes = {"squad": 20, "natural_questions": 1, "trivia_qa": 2, "hotpot_qa": 3}
    pools = {name: pool(name, 400, per) for name, per in sizes.items()}
    learned, judged = split(pools, dict.fromkeys(sizes, 200), seed=3)
    assert Counter(name for name, _ in learned) == dict.fromkeys(sizes, 180)
    assert Counter(name for name, _ in judged) == dict.fromkeys(sizes, 20)
    # Mixed, so that the first or last tenth of the file is of all sets as well.
    assert len({name for name, _ in learned[-60:]}) == 4


def test_sets_that_share_articles_are_split_together() -> None:
    pools = {"squad": pool("x", 100, 5), "hotpot_qa": pool("x", 100, 5)}
    learned, judged = split(pools, {"squad": 60, "hotpot_qa": 60}, seed=0)
    assert {int(e.query.split()[1]) // 5 for _, e in learned}.isdisjoint(
        int(e.query.split()[1]) // 5 for _, e in judged
    )


def test_a_small_pool_gives_what_it_has() -> None:
    learned, judged = split({"squad": pool("s", 30, 3)}, {"squad": 500}, seed=0)
    assert (len(learned), len(judged)) == (27, 3)


def test_what_hangs_together_cannot_be_split() -> None:
    with pytest.raises(DataError, match="found 30 examples that all hang together"):
        split({"squad": pool("s", 30, 30)}, {"squad": 20}, seed=0)


def test_a_leak_is_refused() -> None:
    examples = pool("s", 6, 3)
    refuse_leak(examples[:3], examples[3:])
    with pytest.raises(DataError, match="'s 5' to be judged on shares 'title s 1' with"):
        refuse_leak(examples[:4], examples[5:])
