"""A made-up test collection in the files of MS MARCO."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from tests.support.tiny_models import WORDS


@dataclass(frozen=True)
class Collection:
    """Where the files are.

    Attributes:
        folder: of all of them.
        positives: by query id; two for every third query.
    """

    folder: Path
    positives: dict[str, list[str]]

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus.tsv"

    @property
    def queries(self) -> Path:
        return self.folder / "train.query.txt"

    @property
    def qrels(self) -> Path:
        return self.folder / "qrels.train.tsv"

    @property
    def negatives(self) -> Path:
        return self.folder / "train.negatives.tsv"

    @property
    def run(self) -> Path:
        return self.folder / "train.trec"


def make_collection(folder: Path, *, documents: int = 40, queries: int = 12) -> Collection:
    """Documents d100, d101, ..., queries 7, 8, ...; ids are no row numbers.

    The list of negatives and the run hold positives as well, as real ones do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(0)

    def words(low: int, high: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(low, high)))

    ids = [f"d{100 + number}" for number in range(documents)]
    corpus = [f"{one}\t{words(1, 3)}\t{words(5, 20)}\n" for one in ids]
    query_ids = [str(7 + number) for number in range(queries)]
    positives = {
        one: generator.sample(ids, 2 if place % 3 == 0 else 1)
        for place, one in enumerate(query_ids)
    }
    collection = Collection(folder, positives)
    collection.corpus.write_text("".join(corpus))
    collection.queries.write_text("".join(f"{one}\t{words(3, 6)}\n" for one in query_ids))
    collection.qrels.write_text(
        "".join(f"{q}\t0\t{d}\t1\n" for q, found in positives.items() for d in found)
    )
    listed = {q: generator.sample(ids, 20) + positives[q] for q in query_ids}
    collection.negatives.write_text(
        "".join(f"{q}\t{','.join(found)}\r\n" for q, found in listed.items())
    )
    hits = [
        f"{q} Q0 {d} {rank} {20 - rank / 2} tiny\n"
        for q, found in listed.items()
        for rank, d in enumerate(found, 1)
    ]
    collection.run.write_text("".join(hits))
    return collection
