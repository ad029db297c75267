"""What is known to answer a query, and so is none of its negatives.

A passage is known by its row in the corpus, or by its tokens: two ids may have one text, and the
retriever sees the text alone. Both are whole numbers here, so that ranks can exchange them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gazetteer.dense.line_store import LineStore
from gazetteer.records import TokenIds

LINES_AT_ONCE = 256
NOBODY = -(2**63)
"""Fills the lists of positive keys up; the key of no passage."""


class KnownPositives:
    """Positives by query: those of all lines that ask it.

    Args:
        lines: the store.
    """

    def __init__(self, lines: LineStore) -> None:
        self._lines = lines
        self._asked_again = _lines_of_repeated(lines)

    def of(self, number: int, query: TokenIds) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the positives, as the store has them, and their rows, -1 where unknown.

        Args:
            number: of a line.
            query: its query, as the store has it.
        """
        numbers = self._asked_again.get(_key(query), (number,))
        positives = [self._lines.line(each).positives for each in numbers]
        return (
            np.concatenate([each.numbers for each in positives]),
            np.concatenate([each.rows for each in positives]),
        )


def passage_keys(rows: Sequence[int], tokens: Sequence[TokenIds]) -> Int[Tensor, "passage 2"]:
    """What passages are known by: row (-1: unknown, which is nobody's), and hash of the tokens."""
    keys = np.empty((len(rows), 2), dtype=np.int64)
    keys[:, 0] = rows
    keys[:, 1] = [_token_key(ids) for ids in tokens]
    return torch.from_numpy(keys)


def padded_keys(keys: Sequence[np.ndarray]) -> Int[Tensor, "query key"]:
    """Keys of the positives of each query, filled up to equally many."""
    padded = np.full((len(keys), max(map(len, keys), default=0)), NOBODY, dtype=np.int64)
    for place, each in enumerate(keys):
        padded[place, : len(each)] = each
    return torch.from_numpy(padded)


def known_among(
    positives: Int[Tensor, "query key"], passages: Int[Tensor, "candidate 2"]
) -> Bool[Tensor, "query candidate"]:
    """Which candidates are positives of which query."""
    found = torch.zeros(len(positives), len(passages), dtype=torch.bool)
    by_row, by_tokens = passages.unbind(1)
    # Key after key: all at once would be as many times the memory.
    for key in positives.unbind(1):
        found |= (by_row == key[:, None]) | (by_tokens == key[:, None])
    return found


def _token_key(ids: TokenIds) -> int:
    """Below every row, and below -1."""
    return -2 - (int.from_bytes(_key(ids), "little") >> 2)


def _key(ids: TokenIds) -> bytes:
    return hashlib.blake2b(ids.astype(np.int32).tobytes(), digest_size=8).digest()


def _lines_of_repeated(lines: LineStore) -> Mapping[bytes, tuple[int, ...]]:
    """Numbers of the lines of every query that several lines ask."""
    first: dict[bytes, int] = {}
    repeated: dict[bytes, list[int]] = {}
    for start in range(0, lines.count, LINES_AT_ONCE):
        numbers = range(start, min(start + LINES_AT_ONCE, lines.count))
        places = np.asarray([lines.line(number).query for number in numbers], dtype=np.int64)
        for number, query in zip(numbers, lines.texts(places), strict=True):
            key = _key(query)
            if first.setdefault(key, number) != number:
                repeated.setdefault(key, [first[key]]).append(number)
    return {key: tuple(numbers) for key, numbers in repeated.items()}
