"""The draw: as many as wanted where there are so many, and no more looked at than needed."""

from __future__ import annotations

from collections.abc import Sequence

from gazetteer.ir.records import Candidate
from gazetteer.mining.choosing import EXAMINED, choose, listed_once, shuffled, unjudged
from gazetteer.mining.filters import DUPLICATE, JUDGED, Asked, Filters


def passages(*names: str) -> list[Candidate]:
    return [Candidate(name, 1.0, None, "run") for name in names]


def test_texts_are_asked_for_in_rounds_until_there_are_enough() -> None:
    asked_for: list[list[str]] = []

    def with_texts(candidates: Sequence[Candidate]) -> list[Candidate]:
        asked_for.append([candidate.id for candidate in candidates])
        # The text of x1, x2, ... is x.
        return [Candidate(c.id, c.score, c.rank, c.source, "", c.id[0]) for c in candidates]

    first = (Asked("1", "", ()), passages("a1", "a2", "b1", "b2", "c1", "d1", "e1"))
    second = (Asked("2", "", ()), passages("a1"))
    chosen, counts = choose([first, second], 3, Filters(drops_duplicates=True), with_texts)
    assert [[c.id for c in one] for one in chosen] == [["a1", "b1", "c1"], ["a1"]]
    assert asked_for == [["a1", "a2", "b1", "a1"], ["b2"], ["c1"]]
    assert counts == {EXAMINED: 6, DUPLICATE: 2}


def test_the_order_depends_on_seed_and_query_alone() -> None:
    some = passages(*map(str, range(50)))
    assert shuffled(some, "1", 0) == shuffled(some, "1", 0)
    orders = [shuffled(some, query, seed) for query in "12" for seed in (0, 1)]
    assert len({tuple(c.id for c in order) for order in orders}) == 4
    assert all(sorted(map(id, order)) == sorted(map(id, some)) for order in orders)


def test_an_id_counts_once_at_its_best_rank() -> None:
    assert [c.id for c in listed_once(passages("a", "b", "a", "c", "b"))] == ["a", "b", "c"]


def test_positives_are_no_candidates() -> None:
    asked = Asked("1", "", tuple(passages("b", "x")))
    kept, counts = unjudged(passages("a", "b", "c"), asked)
    assert [c.id for c in kept] == ["a", "c"]
    assert counts == {JUDGED: 1}
