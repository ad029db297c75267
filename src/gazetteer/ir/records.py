"""What the readers and writers of retrieval formats hand on: frozen values, no behaviour.

Every id is a string, whatever the file held: 7 and "7" are the same document.
"""

from __future__ import annotations

from dataclasses import dataclass

Qrels = dict[str, dict[str, int]]
"""Judgements: query id -> document id -> grade; 0 and below is judged and not relevant."""

Run = dict[str, dict[str, float]]
"""What a system returned: query id -> document id -> score, higher is better."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus; title and text may be empty."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a test collection."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One passage of a training line, positive or negative.

    Attributes:
        id: of the document; "" where the file names none.
        score: of a teacher or of the run it came from; None where unknown.
        rank: in the list it came from, from 1; None where unknown.
        source: where it came from ("qrels", "bm25", a run's tag); "" where unknown.
        title: "" where there is none.
        text: None where the passage is to be looked up by its id, or given as tokens.
        tokens: ids without special tokens, already cut; None where the file holds text.
    """

    id: str
    score: float | None
    rank: int | None
    source: str
    title: str = ""
    text: str | None = None
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainingLine:
    """One query with its passages. At least one of `query` and `query_tokens` is there.

    Attributes:
        query_id: "" where the file names none.
        query: text; None where the file holds token ids only.
        query_tokens: ids without special tokens, already cut; None where the file holds text.
        positives: at least one.
        negatives: may be empty.
    """

    query_id: str
    query: str | None
    query_tokens: tuple[int, ...] | None
    positives: tuple[Candidate, ...]
    negatives: tuple[Candidate, ...]
