"""Which passages of a line are trained on in which epoch: pure functions of seed, line and epoch.

Nothing depends on the number of workers, or on which lines were read before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

Passage = TypeVar("Passage")


@dataclass(frozen=True, slots=True)
class Picker:
    """How passages are picked.

    Attributes:
        negatives: per query (`--train_n_passages` less one).
        seed: with the line's number, of the order of its negatives and its first positive.
        shuffles_positives: another positive in each epoch; False: always the line's first.
        shuffles_negatives: other negatives in each epoch; False: always the line's first.
    """

    negatives: int
    seed: int
    shuffles_positives: bool = True
    shuffles_negatives: bool = True

    def positive(self, positives: Sequence[Passage], line: int, epoch: int) -> Passage:
        """One positive, the next one in each epoch."""
        if not self.shuffles_positives or len(positives) == 1:
            return positives[0]
        start = random.Random(f"{self.seed} {line} positive").randrange(len(positives))
        return positives[(start + epoch) % len(positives)]

    def pick_negatives(self, negatives: Sequence[Passage], line: int, epoch: int) -> list[Passage]:
        """A window over the line's own shuffle of its negatives, which moves on in each epoch.

        At its end it begins anew; so each negative is seen equally often, and where there are
        fewer than wanted they repeat.

        Source:
            OpenMatch, but for two things: it shuffles every line alike, and where there are too
            few it draws with replacement, which leaves some out.
        """
        order = list(negatives)
        if not self.shuffles_negatives:
            return list(islice(cycle(order), self.negatives))
        random.Random(f"{self.seed} {line}").shuffle(order)
        start = epoch * self.negatives % len(order) if order else 0
        return list(islice(cycle(order), start, start + self.negatives))
