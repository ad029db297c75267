"""Which passages a query finds: by SPLADE, by a dense encoder, or by words.

A corpus is encoded block after block and each block is written once it is finished, so that a kill
loses one block; searching reads one block at a time. Memory holds a block, the queries and their
hits, however large the corpus is.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gazetteer.compress.dense_encoder import DenseEncoder
from gazetteer.compress.splade import DEFAULT_SPLADE, Arrays, SpladeEncoder
from gazetteer.data.passages import PassageStore
from gazetteer.errors import DataError
from gazetteer.mining.bm25 import Bm25, Bm25Settings
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

BLOCK_ROWS = 1024
KINDS = ("splade", "dense", "bm25")
DEFAULT_MODELS = {"splade": DEFAULT_SPLADE, "dense": "facebook/contriever", "bm25": ""}


class Encoder(Protocol):
    """Turns texts into what can be searched, and searches a block of it."""

    kind: str
    name: str
    identity: str

    def encode_passages(self, titles: Sequence[str], texts: Sequence[str]) -> Arrays:
        """A block."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Any:  # noqa: ANN401 - its own matrices
        """One row per query."""
        ...

    def stack(self, parts: Sequence[Any]) -> Any:  # noqa: ANN401
        """Rows of several calls as one matrix."""
        ...

    def best(self, queries: Any, block: Arrays, top_k: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN401
        """Scores and rows of the block for each query: best first, -1 where there are fewer."""
        ...


@dataclass(frozen=True, slots=True)
class Hits:
    """What some queries found.

    Attributes:
        rows: int64 [query, top_k], of the corpus, best first; -1 behind the last.
        scores: float32 [query, top_k].
    """

    rows: np.ndarray
    scores: np.ndarray


class Retriever(Protocol):
    """Searches a corpus."""

    def search(self, queries: Sequence[str], top_k: int) -> Hits:
        """The best passages of each query."""
        ...


class BlockRetriever:
    """Searches a corpus of encoded blocks.

    Args:
        encoder: of passages and queries.
        corpus: the passages.
        folder: keeps encoded blocks from one run to the next, and for others at the same time; None
            encodes them anew for each search.
        query_batch: queries encoded together.
        part: which of several processes this is, and of how many: each begins elsewhere, and takes
            over what others have encoded.
        show_progress: draw bars.
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: PassageStore,
        folder: Path | None,
        *,
        query_batch: int = 32,
        part: tuple[int, int] = (0, 1),
        show_progress: bool = False,
    ) -> None:
        self._encoder = encoder
        self._corpus = corpus
        self._folder = None
        self._query_batch = query_batch
        self._part = part
        self._show_progress = show_progress
        if folder is not None:
            key = f"{encoder.identity} {corpus.fingerprint} {BLOCK_ROWS}"
            self._folder = folder / hashlib.sha256(key.encode()).hexdigest()[:32]
            self._folder.mkdir(parents=True, exist_ok=True)

    def search(self, queries: Sequence[str], top_k: int) -> Hits:
        """The best passages of each query, ties by row."""
        self._encode_missing()
        with torch.no_grad():
            vectors = self._encoder.stack(
                [
                    self._encoder.encode_queries(queries[first : first + self._query_batch])
                    for first in range(0, len(queries), self._query_batch)
                ]
            )
        best = Hits(
            np.full((len(queries), top_k), -1, dtype=np.int64),
            np.full((len(queries), top_k), -np.inf, dtype=np.float32),
        )
        count = self._corpus.count
        with progress(count, "searching", "passage", enabled=self._show_progress) as bar:
            for rows in _blocks(count):
                scores, places = self._encoder.best(vectors, self._block(rows), top_k)
                best = _merged(best, Hits(np.where(places < 0, -1, places + rows.start), scores))
                bar.update(len(rows))
        return best

    def _encode_missing(self) -> None:
        """Have every block on the disk."""
        if self._folder is None:
            return
        blocks = _blocks(self._corpus.count)
        part, parts = self._part
        first = len(blocks) * part // parts
        with progress(
            self._corpus.count, "encoding", "passage", enabled=self._show_progress
        ) as bar:
            for rows in [*blocks[first:], *blocks[:first]]:
                if not self._file(rows).exists():
                    self._write(rows, self._encode(rows))
                bar.update(len(rows))

    def _block(self, rows: range) -> Arrays:
        if self._folder is None:
            return self._encode(rows)
        try:
            return load_file(self._file(rows))
        except (OSError, SafetensorError) as error:
            logger.warning("%s: not readable (%s), encoded again", self._file(rows), error)
            block = self._encode(rows)
            self._write(rows, block)
            return block

    def _encode(self, rows: range) -> Arrays:
        batch = next(self._corpus.batches(rows, len(rows)))
        return self._encoder.encode_passages(batch.titles, batch.texts)

    def _file(self, rows: range) -> Path:
        assert self._folder is not None
        return self._folder / f"rows.{rows.start:010d}.safetensors"

    def _write(self, rows: range, block: Arrays) -> None:
        final = self._file(rows)
        partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
        try:
            save_file(dict(block), partial)
            partial.replace(final)
        except OSError as error:
            raise DataError(f"{final}: cannot be written: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)


class Bm25Retriever:
    """Searches by words.

    Args:
        corpus: the passages.
        show_progress: draw bars.

    Raises:
        OptionError: bm25s is not installed.
    """

    def __init__(self, corpus: PassageStore, *, show_progress: bool = False) -> None:
        self._index = Bm25(corpus, Bm25Settings(), show_progress=show_progress)

    def search(self, queries: Sequence[str], top_k: int) -> Hits:
        """The best passages of each query that share a word with it."""
        rows = np.full((len(queries), top_k), -1, dtype=np.int64)
        scores = np.full((len(queries), top_k), -np.inf, dtype=np.float32)
        for query, hits in enumerate(self._index.search(queries, top_k)):
            ordered = sorted(hits, key=lambda hit: (-hit[1], hit[0]))
            rows[query, : len(hits)] = [row for row, _ in ordered]
            scores[query, : len(hits)] = [score for _, score in ordered]
        return Hits(rows, scores)


def _blocks(count: int) -> list[range]:
    rows = range(count)
    return [rows[first : first + BLOCK_ROWS] for first in range(0, count, BLOCK_ROWS)]


def _merged(first: Hits, second: Hits) -> Hits:
    """The best of both, ties by row: those of `first` come before those of `second`."""
    scores = np.concatenate([first.scores, second.scores], axis=1)
    rows = np.concatenate([first.rows, second.rows], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : first.scores.shape[1]]
    return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


class SPLADERetriever:
    """Retrieval for scripts: `SPLADERetriever(model_name).retrieve(queries, corpus, top_k)`.

    Args:
        model_name: hub name or folder.
        device: where it runs; None = a GPU where there is one.
        batch_size: texts encoded together.

    Raises:
        CheckpointError: nothing usable under that name.
    """

    def __init__(
        self, model_name: str = DEFAULT_SPLADE, device: str | None = None, batch_size: int = 32
    ) -> None:
        self._encoder = SpladeEncoder(model_name, device=device_of(device), batch_size=batch_size)

    def retrieve(
        self, queries: Sequence[str], corpus: Sequence[Mapping[str, Any]], top_k: int = 20
    ) -> list[list[dict[str, Any]]]:
        """Find passages for each query.

        Args:
            queries: texts.
            corpus: objects with `text`, and `id` and `title` where they have them.
            top_k: passages for each, at most: those that share no word with a query are no hits.

        Returns:
            For each query its passages, best first: what `corpus` holds, and `retrieval_score`.
        """
        best = Hits(
            np.full((len(queries), top_k), -1, dtype=np.int64),
            np.full((len(queries), top_k), -np.inf, dtype=np.float32),
        )
        if not queries:
            return []
        vectors = self._encoder.encode_queries(queries)
        for rows in _blocks(len(corpus)):
            some = corpus[rows.start : rows.stop]
            block = self._encoder.encode_passages(
                [each.get("title") or "" for each in some], [each["text"] for each in some]
            )
            scores, places = self._encoder.best(vectors, block, top_k)
            best = _merged(best, Hits(np.where(places < 0, -1, places + rows.start), scores))
        return [
            [dict(corpus[row]) | {"retrieval_score": score} for row, score in found]
            for found in found_of(best)
        ]


def build_retriever(
    kind: str,
    model: str,
    corpus: PassageStore,
    folder: Path,
    *,
    device: torch.device,
    text_batch: int,
    query_batch: int,
    part: tuple[int, int],
    show_progress: bool,
) -> Retriever:
    """What searches a corpus.

    Args:
        kind: one of `KINDS`.
        model: hub name or folder; not used for "bm25".
        corpus: the passages.
        folder: keeps what is encoded.
        device: where a model runs.
        text_batch: passages of one call of a model.
        query_batch: queries encoded together.
        part: this process and their number.
        show_progress: draw bars.

    Raises:
        CheckpointError: nothing usable under the model's name.
        OptionError: a package is not installed.
    """
    if kind == "bm25":
        return Bm25Retriever(corpus, show_progress=show_progress)
    made = SpladeEncoder if kind == "splade" else DenseEncoder
    return BlockRetriever(
        made(model, device=device, batch_size=text_batch),
        corpus,
        folder,
        query_batch=query_batch,
        part=part,
        show_progress=show_progress,
    )


def found_of(hits: Hits) -> Iterator[list[tuple[int, float]]]:
    """Rows and scores of each query, without the empty places."""
    for rows, scores in zip(hits.rows.tolist(), hits.scores.tolist(), strict=True):
        yield [(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]


def device_of(name: str | None) -> torch.device:
    """A device by name: gpu, cpu, any name of torch; None or auto = a GPU where there is one."""
    if name in (None, "auto"):
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cuda" if name == "gpu" else str(name))
