"""BM25 by bm25s: what a query finds by its words alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gazetteer.data.passage_workers import usable_processes
from gazetteer.data.passages import PassageStore
from gazetteer.errors import OptionError
from gazetteer.optional_packages import import_optional
from gazetteer.progress import progress

WORDS = r"(?u)\b\w+\b"
K1, B = 0.9, 0.4
"""As in Anserini, whose numbers for MS MARCO and BEIR are the ones usually given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bm25Settings:
    """How words count.

    Attributes:
        k1: how soon a repeated word stops counting.
        b: how much long documents are marked down, 0 to 1.
        stemmer: a language of Snowball, as "english"; None leaves words as they are.
        stopwords: "english" leaves them out; None keeps all.
    """

    k1: float = K1
    b: float = B
    stemmer: str | None = "english"
    stopwords: str | None = "english"


class Bm25:
    """An index of words, in memory: 8 bytes for each different word of each document.

    Args:
        corpus: title and text are one text.
        settings: how words count.
        show_progress: draw a bar.

    Raises:
        OptionError: bm25s or PyStemmer is not installed, or knows no such language.
    """

    def __init__(
        self, corpus: PassageStore, settings: Bm25Settings, *, show_progress: bool
    ) -> None:
        bm25s = import_bm25s()
        self._count = corpus.count
        self._words = bm25s.tokenization.Tokenizer(
            splitter=WORDS, stopwords=settings.stopwords or [], stemmer=_stemmer(settings.stemmer)
        )
        self._index = bm25s.BM25(k1=settings.k1, b=settings.b, method="lucene")
        with progress(corpus.count, "words", "passage", enabled=show_progress) as bar:
            documents = [
                np.asarray(ids, dtype=np.int32)
                for ids in self._words.streaming_tokenize(
                    _texts(corpus, bar.update), allow_empty=False
                )
            ]
        vocabulary = self._words.get_vocab_dict()
        self._has_words = bool(vocabulary)
        if self._has_words:
            self._index.index((documents, vocabulary), show_progress=False)

    def search(self, queries: Sequence[str], depth: int) -> list[list[tuple[int, float]]]:
        """Rows and scores of the documents that share a word with each query, best first.

        Args:
            queries: texts.
            depth: so many at most.
        """
        words = self._words.streaming_tokenize(
            list(queries), update_vocab="never", allow_empty=False
        )
        asked = dict(pair for pair in enumerate(words) if pair[1])
        found: list[list[tuple[int, float]]] = [[] for _ in queries]
        if not asked or not self._has_words:
            return found
        rows, scores = self._index.retrieve(
            list(asked.values()),
            k=min(depth, self._count),
            n_threads=usable_processes(),
            show_progress=False,
            backend_selection="numpy",
        )
        for place, *hits in zip(asked, rows.tolist(), scores.tolist(), strict=True):
            found[place] = [(row, score) for row, score in zip(*hits, strict=True) if score > 0]
        return found


def _texts(corpus: PassageStore, update: Callable[[int], object]) -> Iterator[str]:
    for batch in corpus.batches(range(corpus.count)):
        for title, text in zip(batch.titles, batch.texts, strict=True):
            yield f"{title} {text}"
        update(len(batch.ids))


def import_bm25s(needed: str = "BM25 needs bm25s") -> Any:  # noqa: ANN401 - a module
    """The library, which would otherwise log every step.

    Raises:
        OptionError: it is not installed; the message says what is `needed`.
    """
    bm25s = import_optional("bm25s", needed)
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s


def _stemmer(language: str | None) -> Any:  # noqa: ANN401 - PyStemmer has no types
    if language is None:
        return None
    stemmers = import_optional("Stemmer", "--stemmer needs PyStemmer")
    try:
        return stemmers.Stemmer(language)
    except KeyError:
        known = ", ".join(sorted(stemmers.algorithms()))
        raise OptionError(f"--stemmer ({language}) must be one of {known}") from None
