"""Collections of the study of dense training, cut into queries to train on and queries held out.

Of a folder with ir/cranfield and ir/cisi in BEIR's layout, wiki/passages.jsonl and
nq/nq_oracle.dev.jsonl it makes, for each collection, corpus.jsonl, queries.jsonl and all.tsv
(judgements), and for each part that is held out a folder with train.tsv and test.tsv.

Which queries are held out is decided by a hash: of the query's id; for questions of NQ, of the
title of their gold passage, so that no gold passage is on both sides.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.jsonl import Field, read_lines
from gazetteer.data.passage_rows import IDS_OF_OTHERS, SourceFormat
from gazetteer.errors import DataError
from gazetteer.ir.collections import (
    BeirFolder,
    read_documents,
    read_queries,
    write_documents,
    write_queries,
)
from gazetteer.ir.judgements import read_qrels, write_qrels
from gazetteer.ir.records import Document, Qrels, Query
from gazetteer.ir.whole_files import written_whole

FLAG = "--data"
VALIDATION = "v"
"""After the name of a part: of its training queries, one in `VALIDATION_PARTS` is held out, too, to
choose settings by; what the part itself holds out is not there at all."""
VALIDATION_PARTS = 4
RANDOM_NEGATIVES = 30
NQ_PASSAGES = 5_000
"""Gold passages of all questions, and others up to so many: those whose hashes come first."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A collection.

    Attributes:
        documents: what is searched.
        queries: judged ones.
        qrels: documents that answer them.
        groups: query id -> what its side is decided by.
    """

    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    qrels: Qrels
    groups: Mapping[str, str]


def read_beir(folder: Path) -> Judged:
    """A collection in BEIR's layout.

    Raises:
        DataError: a file is missing, or a bad line.
    """
    beir = BeirFolder(folder)
    qrels = read_qrels(beir.qrels("test"), flag=FLAG)
    queries = [query for query in read_queries(beir.queries, flag=FLAG) if query.id in qrels]
    form = SourceFormat(FLAG, id_names=IDS_OF_OTHERS)
    return Judged(
        tuple(read_documents(beir.corpus, form)),
        tuple(queries),
        qrels,
        {query.id: query.id for query in queries},
    )


def read_nq(questions: Path, passages: Path) -> Judged:
    """Questions with one gold passage each.

    Raises:
        DataError: a file is missing, or a bad line.
    """
    names = ("question", "gold_passage_id", "title")
    fields = [Field(name, "text", required=True) for name in names]
    queries, qrels, groups = [], {}, {}
    for line in read_lines(questions, fields, flag=FLAG):
        query = Query(f"nq{line.number}", line.value["question"])
        queries.append(query)
        qrels[query.id] = {line.value["gold_passage_id"]: 1}
        groups[query.id] = line.value["title"]
    form = SourceFormat(FLAG, id_names=IDS_OF_OTHERS)
    gold = {document for answers in qrels.values() for document in answers}
    documents = list(read_documents(passages, form))
    missing = gold - {document.id for document in documents}
    if missing:
        raise DataError(f"{passages}: found no passage {min(missing)!r} ({FLAG})")
    others = sorted((each.id for each in documents if each.id not in gold), key=hash_of)
    kept = gold.union(others[: max(0, NQ_PASSAGES - len(gold))])
    searched = tuple(each for each in documents if each.id in kept)
    return Judged(searched, tuple(queries), qrels, groups)


def hash_of(text: str) -> int:
    """The same everywhere and always."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return int(digest[:12], 16)


def sides(judged: Judged, parts: int, part: str) -> tuple[Qrels, Qrels]:
    """Judgements of the queries to train on, and of those held out.

    Args:
        judged: the collection.
        parts: it is cut into.
        part: number of the part that is held out, from 0; with a "v" behind it, see `VALIDATION`.

    Raises:
        DataError: one side is empty.
    """
    number = int(part.removesuffix(VALIDATION))
    train, test = {}, {}
    for query_id, answers in judged.qrels.items():
        group = judged.groups[query_id]
        is_test = hash_of(group) % parts == number
        if part.endswith(VALIDATION):
            if is_test:
                continue
            is_test = hash_of(f"validation {group}") % VALIDATION_PARTS == 0
        (test if is_test else train)[query_id] = answers
    if not train or not test:
        raise DataError(f"{len(judged.qrels)} judged queries are too few for {parts} parts")
    return train, test


def write_collection(judged: Judged, parts: int, used: Iterable[str], target: Path) -> None:
    """Write a collection, and the sides of the parts that are used."""
    write_documents(target / "corpus.jsonl", judged.documents)
    write_queries(target / "queries.jsonl", judged.queries)
    write_qrels(target / "all.tsv", judged.qrels)
    for part in used:
        train, test = sides(judged, parts, part)
        write_qrels(target / part / "train.tsv", train)
        write_qrels(target / part / "test.tsv", test)
        write_random(target / part / "random.tsv", judged.documents, train)


def write_random(path: Path, documents: Iterable[Document], train: Qrels) -> None:
    """Negatives that nobody looked for, as build_train.py reads them."""
    ids = [document.id for document in documents]
    generator = random.Random(0)
    with written_whole(path) as file:
        for query_id in train:
            drawn = generator.sample(ids, min(RANDOM_NEGATIVES, len(ids)))
            file.write(f"{query_id}\t{','.join(drawn)}\n")
