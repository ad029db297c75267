"""Corpora and queries of test collections, and the folders of BEIR.

A corpus is read here document by document; to be searched it goes through the passage store
(`data/corpus.py`), which reads the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.jsonl import BadLineError
from gazetteer.data.passage_files import place_of, read_blocks
from gazetteer.data.passage_rows import SourceFormat, parse_block
from gazetteer.errors import DataError
from gazetteer.ir.fields import Object, as_id, as_text, id_of, mismatch, optional_id, optional_text
from gazetteer.ir.lines import Unique, read_fields, read_objects
from gazetteer.ir.records import Document, Query
from gazetteer.ir.training_files import write_objects
from gazetteer.ir.whole_files import written_whole

QUERY_IDS = ("_id", "id", "query_id", "qid", "text_id")
QUERY_TEXTS = ("text", "query", "query_text", "question", "input")


def read_documents(path: Path, form: SourceFormat) -> Iterator[Document]:
    """Read a corpus: jsonl, tab-separated text or parquet, as `data/passage_files.py` knows them.

    Ids are not compared with each other: see `passage_lookup.py`.

    Args:
        path: the file.
        form: what its name does not say, and the flag named in errors.

    Raises:
        DataError: a bad line.
    """
    lines = 0
    for source in read_blocks(path, form):
        chunk = parse_block(source.block, "error")
        names = [chunk.batch.column(name).to_pylist() for name in ("id", "title", "text")]
        for document in zip(*names, strict=True):
            yield Document(*document)
        problems = [*chunk.bad, *([(chunk.lines + 1, source.problem)] if source.problem else [])]
        for number, problem in problems:
            raise DataError(f"{place_of(path, lines + number)}: {problem} ({form.flag})")
        lines += chunk.lines


def read_kilt_pages(path: Path, *, flag: str) -> Iterator[Document]:
    """Read KILT's knowledge source: a document per page, its paragraphs one after the other.

    Raises:
        DataError: a bad line.
    """

    def make(value: Object) -> Document:
        paragraphs = value.get("text")
        if not isinstance(paragraphs, list):
            raise mismatch("text", paragraphs, "a list of paragraphs")
        text = " ".join(as_text(each, "text").strip() for each in paragraphs)
        title = optional_text(value, "wikipedia_title") or ""
        return Document(id_of(value, "wikipedia_id"), title, text)

    return read_objects(path, make, flag=flag)


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write a corpus as BEIR's `corpus.jsonl`. Returns the number of documents."""
    return write_objects(
        path, ({"_id": each.id, "title": each.title, "text": each.text} for each in documents)
    )


def read_queries(path: Path, *, flag: str) -> list[Query]:
    """Read queries: jsonl (BEIR, Tevatron, KILT and others), or tab-separated id and text.

    Raises:
        DataError: a bad line, an id that is there twice, a query without text, or no query at all.
    """
    unique = Unique("query id")

    def checked(query_id: str, text: str) -> Query:
        if not query_id:
            raise BadLineError("found an empty id, expected the id of a query")
        if not text.strip():
            raise BadLineError("found an empty query, expected a text")
        return Query(unique(query_id), text)

    def from_object(value: Object) -> Query:
        texts = (value[name] for name in QUERY_TEXTS if isinstance(value.get(name), str))
        text = next(texts, None)
        if text is None:
            raise mismatch("text", value.get("text"), "a string")
        query_id = optional_id(value, *QUERY_IDS)
        if not query_id:
            raise mismatch("_id", None, "an id: a string that is not empty, or a whole number")
        return checked(query_id, text)

    if is_tab_separated(path):
        rows = read_fields(path, lambda fields: checked(*fields), columns=(2,), flag=flag)
    else:
        rows = read_objects(path, from_object, flag=flag)
    queries = list(rows)
    if not queries:
        raise DataError(f"{path}: found no queries ({flag})")
    return queries


def read_top1000(path: Path, *, flag: str) -> Iterator[tuple[Query, Document]]:
    """Read `top1000.*.tsv`: candidates to rank, each with the query's text and the passage's.

    Raises:
        DataError: a bad line.
    """

    def make(fields: list[str]) -> tuple[Query, Document]:
        query_id, passage_id, query, passage = fields
        document = Document(as_id(passage_id, "passage"), "", passage)
        return Query(as_id(query_id, "query"), query), document

    return read_fields(path, make, columns=(4,), flag=flag)


def write_queries(path: Path, queries: Iterable[Query]) -> None:
    """Write queries, as tab-separated text if the name ends in .tsv, else as BEIR's jsonl.

    Raises:
        DataError: a text has a tab or a line end, which tab-separated text cannot hold.
    """
    if not is_tab_separated(path):
        write_objects(path, ({"_id": each.id, "text": each.text} for each in queries))
        return
    with written_whole(path) as file:
        for each in queries:
            if any(mark in each.id + each.text for mark in "\t\n\r"):
                raise DataError(
                    f"{path}: query {each.id!r}: found a tab or a line end, expected text without"
                )
            file.write(f"{each.id}\t{each.text}\n")


def is_tab_separated(path: Path) -> bool:
    """Whether the name of a file of queries or triples says tab-separated text."""
    return path.name.lower().removesuffix(".gz").endswith((".tsv", ".txt"))


@dataclass(frozen=True, slots=True)
class BeirFolder:
    """Where the parts of a collection are in BEIR's layout."""

    folder: Path

    @property
    def corpus(self) -> Path:
        """The documents."""
        return self.folder / "corpus.jsonl"

    @property
    def queries(self) -> Path:
        """The queries of all splits."""
        return self.folder / "queries.jsonl"

    def qrels(self, split: str) -> Path:
        """The judgements of a split: "train", "dev" or "test"."""
        return self.folder / "qrels" / f"{split}.tsv"
