"""Prefix language modelling: go on with a text."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from gazetteer.tasks.passage_text import PassageTask

_SPACE = re.compile(r"(\s+)")


class Task(PassageTask):
    """The beginning of a text in; the rest of it out.

    Args:
        min_words: leave shorter texts out; `--min_words_per_lm_instance`.
        min_share: of the whole text that is given, at least; `--min_lm_context_ratio`.
        max_share: at most; `--max_lm_context_ratio`.

    Source:
        "Prefix language modeling" in section 2.3 of Atlas, arXiv:2208.03299.
    """

    flags: ClassVar[Mapping[str, str]] = {
        "min_words": "min_words_per_lm_instance",
        "min_share": "min_lm_context_ratio",
        "max_share": "max_lm_context_ratio",
    }
    left_out_reason: ClassVar[str] = "too short (--min_words_per_lm_instance), or a single word"
    least_words: ClassVar[int] = 2

    def __init__(
        self, min_words: int | None = None, min_share: float = 0.5, max_share: float = 0.5
    ) -> None:
        super().__init__(min_words)
        self._shares = (min_share, max_share)

    def parts(self, line: Mapping[str, Any], generator: random.Random) -> tuple[str, str]:
        """Both sides of the cut, without the white space around it."""
        pieces = _SPACE.split(line["text"].strip())
        cut = _draw_cut(len(pieces), *self._shares, generator)
        return "".join(pieces[:cut]).rstrip(), "".join(pieces[cut:]).lstrip()


def _draw_cut(pieces: int, min_share: float, max_share: float, generator: random.Random) -> int:
    """How many of the pieces, words and the white space between them, are given.

    At least one word is on either side; apart from that the bounds are Atlas's, which leave two
    pieces where they can.
    """
    low = max(2, int(pieces * min_share))
    high = max(min(pieces - 2, int(pieces * max_share)), low + 1)
    return generator.randint(min(low, pieces - 1), min(high, pieces - 1))
