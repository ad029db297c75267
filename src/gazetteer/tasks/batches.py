"""From lines of data to batches: the task's view of a line, tokenised for both models."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.sampling import Draw
from gazetteer.data.targets import TargetTokenizer
from gazetteer.records import Batch, Example, Targets
from gazetteer.tasks.base import Task


class Lines(Protocol):
    """Lines of data, read by number: `ExampleFiles`, or the queries of a test collection."""

    @property
    def count(self) -> int:
        """Number of lines."""
        ...

    def line(self, index: int) -> Mapping[str, Any]:
        """One line, parsed and checked."""
        ...

    def with_passages(self, example: Example, index: int) -> Example:
        """The example made of line `index`, with what came along with it."""
        ...


class BatchBuilder:
    """Builds batches from the lines of one set of files.

    Args:
        files: the lines.
        task: what a line means.
        query_tokenizer: the retriever's; None where nothing is retrieved.
        target_tokenizer: the reader's; None with `--retrieve_only`.
        seed: with epoch and example, seeds each example's own randomness.
        device: where targets go.
        orders: in which each line is read, an example for each, see `Task.orders`.
    """

    def __init__(
        self,
        *,
        files: Lines,
        task: Task,
        query_tokenizer: QueryTokenizer | None,
        target_tokenizer: TargetTokenizer | None,
        seed: int,
        device: torch.device,
        orders: Sequence[tuple[int, ...]] = ((),),
    ) -> None:
        self.files = files
        self._task = task
        self._query_tokenizer = query_tokenizer
        self._target_tokenizer = target_tokenizer
        self._seed = seed
        self._device = device
        self.orders = orders

    @property
    def count(self) -> int:
        """Number of examples: those of the first line, then those of the second, ..."""
        return self.files.count * len(self.orders)

    def build(self, draws: Sequence[Draw]) -> Batch:
        """One batch; empty for no draws.

        What an example draws at random depends on nothing but the seed, the epoch and its place,
        so it is the same on any number of workers.
        """
        examples = tuple(self._example(draw) for draw in draws)
        queries = [example.query for example in examples]
        tokenizer = self._query_tokenizer
        return Batch(
            examples=examples,
            query_tokens=tokenizer.encode(queries) if tokenizer else (),
            targets=self._targets(queries, examples),
            forbidden=tuple(self._task.forbidden_passage_id(e) for e in examples)
            if self._task.filters
            else (),
        )

    def _targets(self, queries: list[str], examples: Sequence[Example]) -> Targets | None:
        if self._target_tokenizer is None:
            return None
        texts = [example.target for example in examples]
        return self._target_tokenizer.encode(queries, texts, self._device)

    def _example(self, draw: Draw) -> Example:
        generator = random.Random(f"{self._seed} {draw.epoch} {draw.index}")
        number, place = divmod(draw.index, len(self.orders))
        line = self._task.reordered(self.files.line(number), self.orders[place])
        return self.files.with_passages(self._task.example(line, draw.index, generator), number)
