"""From training files of any format to a store of lines: read, checked and tokenised once."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from gazetteer.data.built_folders import build_folder
from gazetteer.data.jsonl import OnBadLine
from gazetteer.data.passages import PassageStore
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import tokenize, tokenizer_fingerprint, write_tokens
from gazetteer.dense.line_store import COLUMNS, TOKENS, LineStore, column_file
from gazetteer.errors import DataError, IndexFileError
from gazetteer.ir.lines import OnBad, refuse
from gazetteer.ir.passage_lookup import PassageLookup
from gazetteer.ir.records import Candidate, TrainingLine
from gazetteer.ir.training_formats import read_training_lines
from gazetteer.progress import progress
from gazetteer.records import TokenIds

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
BATCH_LINES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTexts:
    """How lines become token ids.

    Attributes:
        tokenizer: of the retriever.
        query_template: field `text`.
        passage_template: fields `title` and `text`.
        query_tokens, passage_tokens: no more are kept of a text.
    """

    tokenizer: PreTrainedTokenizerBase
    query_template: PassageTemplate
    passage_template: PassageTemplate
    query_tokens: int
    passage_tokens: int


def cached_lines(
    paths: Sequence[Path],
    texts: LineTexts,
    corpus: PassageStore | None,
    cache_dir: Path,
    *,
    flag: str,
    on_bad_line: OnBadLine = "error",
    show_progress: bool = False,
) -> LineStore:
    """The lines of these files, stored on first use and reused while files and texts are the same.

    Args:
        paths: files as `ir.training_formats` knows them, read in this order.
        texts: how lines become token ids.
        corpus: where passages named by id are; None without.
        cache_dir: holds one folder for each.
        flag: named in errors.
        on_bad_line: what a malformed line does, or one that names what is not there.
        show_progress: draw a bar.

    Raises:
        DataError: a bad line, an id that no passage has, or no line at all.
    """
    files = [
        (str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns)
        for p in (_exists(p, flag) for p in paths)
    ]
    identity = (
        FORMAT_VERSION,
        on_bad_line,
        files,
        corpus.fingerprint if corpus else None,
        tokenizer_fingerprint(texts.tokenizer),
        (texts.query_template.format, texts.query_tokens),
        (texts.passage_template.format, texts.passage_tokens),
    )
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    folder, count = cache_dir / "lines" / name, corpus.count if corpus else 0
    try:
        return LineStore(folder, count)
    except IndexFileError:
        pass
    lookup = PassageLookup(corpus) if corpus else None
    bad = _BadLines()
    on_bad = refuse if on_bad_line == "error" else bad.leave_out
    with progress(None, f"reading {flag}", "line", enabled=show_progress) as bar:
        lines = (line for path in paths for line in _read(path, flag, on_bad))
        writer = _Writer(texts, lookup, count, flag, on_bad)
        build_folder(folder, lambda partial: writer.write(lines, partial, bar.update))
    if bad.count:
        logger.warning("bad lines skipped: %d, the first: %s", bad.count, bad.first)
    return LineStore(folder, count)


class _BadLines:
    """Counts lines that are left out."""

    def __init__(self) -> None:
        self.count = 0
        self.first = ""

    def leave_out(self, problem: str) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or problem


_Text = tuple[str | TokenIds, int]
"""A text or its ids, and how many of them are kept."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A line, and where it was read, for errors."""

    where: str
    line: TrainingLine


def _read(path: Path, flag: str, on_bad: OnBad) -> Iterator[_Placed]:
    for number, line in enumerate(read_training_lines(path, flag=flag, on_bad=on_bad), 1):
        yield _Placed(f"{path}: example {number}", line)


def _exists(path: Path, flag: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file ({flag})")
    return path


class _Writer:
    """Tokenises lines and collects what is known of them: some 30 bytes of memory per passage."""

    def __init__(
        self,
        texts: LineTexts,
        lookup: PassageLookup | None,
        corpus_count: int,
        flag: str,
        on_bad: OnBad,
    ) -> None:
        self._on_bad = on_bad
        self._texts = texts
        self._lookup = lookup
        self._corpus_count = corpus_count
        self._flag = flag
        self._largest_id = max(texts.tokenizer.get_vocab().values())
        self._placed = 0
        self._columns = {
            name: array("f" if kind is np.float32 else "q") for name, kind in COLUMNS.items()
        }

    def write(
        self, lines: Iterator[_Placed], folder: Path, on_lines: Callable[[int], object]
    ) -> None:
        """Write the store into an empty folder.

        Raises:
            DataError: a line that cannot be used, or no line at all.
        """
        columns = self._columns

        def batches() -> Iterator[list[TokenIds]]:
            while some := list(islice(lines, BATCH_LINES)):
                yield self._tokenised(some)
                on_lines(len(some))

        columns["starts"].append(0)
        is_small = self._largest_id <= np.iinfo(np.uint16).max
        write_tokens(batches(), folder / TOKENS, pa.uint16() if is_small else pa.int32())
        if not columns["queries"]:
            raise DataError(f"found no lines to train on ({self._flag})")
        for name, kind in COLUMNS.items():
            np.save(column_file(folder, name), np.asarray(columns[name], dtype=kind))

    def _tokenised(self, lines: Sequence[_Placed]) -> list[TokenIds]:
        """Ids of the texts of these lines, in order; all else goes into the columns."""
        columns, texts = self._columns, _Texts(self._placed)
        for placed, rows in zip(lines, self._rows(lines), strict=True):
            line = placed.line
            problem = self._problem(line, rows)
            if problem is not None:
                self._on_bad(f"{placed.where}: {problem} ({self._flag})")
                continue
            columns["queries"].append(texts.place(self._query(line)))
            columns["positives"].append(len(line.positives))
            candidates = (*line.positives, *line.negatives)
            for row, candidate in zip(rows.tolist(), candidates, strict=True):
                text = self._passage(candidate)
                number = row if text is None else self._corpus_count + texts.place(text)
                columns["passages"].append(number)
                columns["rows"].append(row)
                columns["scores"].append(np.nan if candidate.score is None else candidate.score)
            columns["starts"].append(len(columns["passages"]))
        self._placed += len(texts.found)
        return texts.tokenised(self._texts.tokenizer)

    def _query(self, line: TrainingLine) -> _Text:
        limit = self._texts.query_tokens
        if line.query_tokens is not None:
            return np.asarray(line.query_tokens, dtype=np.int32), limit
        record = {"id": line.query_id, "text": line.query or ""}
        return self._texts.query_template.fill(record), limit

    def _passage(self, candidate: Candidate) -> _Text | None:
        """The passage as the line gives it; None where it is one of the corpus."""
        limit = self._texts.passage_tokens
        if candidate.tokens is not None:
            return np.asarray(candidate.tokens, dtype=np.int32), limit
        if candidate.text is None:
            return None
        record = {"id": candidate.id, "title": candidate.title, "text": candidate.text}
        return self._texts.passage_template.fill(record), limit

    def _rows(self, lines: Sequence[_Placed]) -> list[np.ndarray]:
        """For each line: row in the corpus of each of its passages; -1 where there is none."""
        named = [(*placed.line.positives, *placed.line.negatives) for placed in lines]
        ids = [candidate.id for candidates in named for candidate in candidates]
        rows = np.full(len(ids), -1, dtype=np.int64)
        if self._lookup is not None:
            has_id = np.asarray([bool(each) for each in ids], dtype=bool)
            rows[has_id] = _known_rows(self._lookup, [each for each in ids if each])
        return np.split(rows, np.cumsum([len(candidates) for candidates in named])[:-1])

    def _problem(self, line: TrainingLine, rows: np.ndarray) -> str | None:
        """Why a line cannot be used; None where it can."""
        candidates = (*line.positives, *line.negatives)
        if line.query is None and line.query_tokens is None:
            return f"query '{line.query_id}' has no text"
        tokens = (line.query_tokens, *(candidate.tokens for candidate in candidates))
        largest = max((max(ids) for ids in tokens if ids), default=0)
        if largest > self._largest_id:
            return (
                f"found token id {largest}, the tokenizer has ids up to {self._largest_id}: the "
                "file was made with another one"
            )
        for row, candidate in zip(rows.tolist(), candidates, strict=True):
            if row < 0 and candidate.text is None and candidate.tokens is None:
                where = "is none of --passages" if self._lookup else "has no text: give --passages"
                return f"passage '{candidate.id}' {where}"
        return None


def _known_rows(lookup: PassageLookup, ids: Sequence[str]) -> np.ndarray:
    """Row of each passage; -1 for ids that no passage has."""
    try:
        return lookup.rows(ids)
    except DataError:
        return np.asarray([lookup.rows([i])[0] if i in lookup else -1 for i in ids])


class _Texts:
    """Texts of some lines, numbered on from those before."""

    def __init__(self, first: int) -> None:
        self._first = first
        self.found: list[_Text] = []

    def place(self, text: _Text) -> int:
        """Take a text, and say which number it has."""
        self.found.append(text)
        return self._first + len(self.found) - 1

    def tokenised(self, tokenizer: PreTrainedTokenizerBase) -> list[TokenIds]:
        """Ids of all texts, cut."""
        made = iter(tokenize(tokenizer, [text for text, _ in self.found if isinstance(text, str)]))
        return [
            (next(made) if isinstance(text, str) else text)[:limit] for text, limit in self.found
        ]
