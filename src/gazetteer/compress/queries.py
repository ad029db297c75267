"""The queries of a data set: of a file, made up, or MS MARCO's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gazetteer.data.jsonl import UTF8_MARK, BadLineError, decode_line, refuse_other_formats
from gazetteer.downloading import DownloadError, Patience, fetch
from gazetteer.errors import DataError
from gazetteer.ir.collections import QUERY_TEXTS
from gazetteer.ir.fields import Object, mismatch, optional_list, texts_of
from gazetteer.ir.lines import read_fields, read_objects
from gazetteer.ir.whole_files import written_whole

logger = logging.getLogger(__name__)

OBJECTS = (".jsonl", ".json", ".parquet", ".jsonl.gz", ".json.gz")
TABULAR = (".tsv", ".tsv.gz")
MS_MARCO = "https://msmarco.z22.web.core.windows.net/msmarcoranking/queries.dev.small.tsv"
MS_MARCO_FILE = "ms_marco_queries.txt"
PATIENCE = Patience(silence_s=30, tries=3)


@dataclass(frozen=True, slots=True)
class Question:
    """A query and, where the file knows them, its gold answers."""

    text: str
    answers: tuple[str, ...] = ()


def read_queries_file(path: Path, *, flag: str) -> list[Question]:
    """Read queries: one per line; or objects with answers beside them; or id, tab, text.

    Blank lines are passed over. Of objects (`.jsonl`, `.json`, `.parquet`) the text is `query`,
    `question`, `text` or `input`, and `answers` or `answer` are the gold answers.

    Raises:
        DataError: a bad line, or no query at all.
    """
    name = path.name.lower()
    if name.endswith(OBJECTS):
        found = list(read_objects(path, _of_object, flag=flag))
    elif name.endswith(TABULAR):
        found = list(read_fields(path, _of_fields, columns=(2,), flag=flag))
    else:
        found = [Question(text) for text in _lines(path, flag)]
    if not found:
        raise DataError(f"{path}: found no queries ({flag})")
    return found


def _of_object(value: Object) -> Question:
    texts = (value[name] for name in QUERY_TEXTS if isinstance(value.get(name), str))
    text = " ".join(next(texts, "").split())
    if not text:
        raise mismatch("query", value.get("query"), "a text")
    if isinstance(value.get("answer"), str) and value.get("answers") is None:
        return Question(text, (value["answer"],))
    name = "answers" if value.get("answers") is not None else "answer"
    return Question(text, tuple(texts_of(value, name)) if optional_list(value, name) else ())


def _of_fields(fields: list[str]) -> Question:
    text = " ".join(fields[1].split())
    if not text:
        raise BadLineError("found an empty query, expected a text")
    return Question(text)


def _lines(path: Path, flag: str) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                try:
                    if number == 1:
                        refuse_other_formats(raw, "text")
                        raw = raw.removeprefix(UTF8_MARK)
                    text = " ".join(decode_line(raw).split())
                    if "\0" in text:
                        raise BadLineError("found a NUL character, expected text")
                except BadLineError as error:
                    raise DataError(f"{path}:{number}: {error} ({flag})") from None
                if text:
                    yield text
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error} ({flag})") from None


def synthetic_queries(count: int) -> list[Question]:
    """Made queries, whose answers the built-in corpus holds (see `corpus.py`)."""
    return [Question(f"What is example topic {number}?") for number in range(count)]


def download_ms_marco(folder: Path) -> list[Question]:
    """Fetch the 6,980 queries of MS MARCO's small development set.

    Args:
        folder: gets the file as published, and `MS_MARCO_FILE`, one query per line.

    Raises:
        DownloadError: it could not be fetched; what to do instead is said.
        DataError: what came is something else.
    """
    path = folder / "queries.dev.small.tsv"
    try:
        fetch(MS_MARCO, path, PATIENCE)
    except DownloadError as error:
        raise DownloadError(
            f"{error} (--download_ms_marco; without a connection, fetch it elsewhere and name the "
            "file with --queries_file)"
        ) from None
    found = read_queries_file(path, flag="--download_ms_marco")
    with written_whole(folder / MS_MARCO_FILE) as file:
        file.writelines(f"{each.text}\n" for each in found)
    return found


def warn_of_ms_marco() -> None:
    """Say what must not be measured any more with what these queries teach."""
    logger.warning(
        "these are the development queries of MS MARCO: of a model trained on them, a number "
        "measured on MS MARCO dev says nothing"
    )
