"""What a task decides: how a line of data becomes an example, and how an answer is judged.

`Task` is also the plainest task, `--task base`: a query, a target, nothing else. Others derive
from it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from gazetteer.data.jsonl import Field
from gazetteer.metrics.answers import accuracy
from gazetteer.records import Example

SENTINEL = "<extra_id_0>"
"""Begins every target and closes every prompt: the form T5 was pre-trained on."""

_SENTINELS = re.compile(r"<extra_id_\d+>")


def without_sentinels(text: str) -> str:
    """The text as a decoded prediction would show it."""
    return " ".join(_SENTINELS.sub(" ", text).split()) if "<extra_id_" in text else text


class Task:
    """Sequence to sequence: field `query` in, field `target` out.

    Attributes:
        flags: the constructor's arguments, and the flag that gives each its value.
        fields: types of what a line holds.
        metrics: in the order in which they are logged.
        filters: whether some passages are forbidden, see `forbidden_passage_id`.
        tokenizes: whether examples cannot be made without the reader's tokenizer.
        left_out_reason: what is wrong with lines that `keeps` refuses, for the log.
        debiases: whether the probabilities of the candidates are averaged over `orders`, and
            `debiased_accuracy` is that of the likeliest.
    """

    flags: ClassVar[Mapping[str, str]] = {}
    fields: ClassVar[tuple[Field, ...]] = (
        Field("query", "text", required=True),
        Field("target", "text", required=True),
    )
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "eval_loss")
    filters: ClassVar[bool] = False
    tokenizes: ClassVar[bool] = False
    left_out_reason: ClassVar[str] = ""
    debiases: ClassVar[bool] = False

    @property
    def candidates(self) -> tuple[str, ...]:
        """The closed set of answers, as predictions show them; empty where any text is one."""
        return ()

    @property
    def evaluation_fields(self) -> tuple[Field, ...]:
        """What a line to evaluate needs: `fields`, as strict as the task's flags make them."""
        return self.fields

    @property
    def training_fields(self) -> tuple[Field, ...]:
        """What a line to learn from needs."""
        return self.evaluation_fields

    def keeps(self, line: Mapping[str, Any]) -> bool:
        """Whether there is an example in this line; its `fields` were checked."""
        return True

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Told once, before the first example: the reader's; None where nothing is read.

        Raises:
            OptionError: the task cannot work with it.
        """

    def orders(self, *, is_training: bool) -> Sequence[tuple[int, ...]]:
        """Orders in which each line is read, one example for each; the first leaves it as it is."""
        return ((),)

    def reordered(self, line: Mapping[str, Any], order: tuple[int, ...]) -> Mapping[str, Any]:
        """The line in one of the `orders`."""
        return line

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """Turn one line of data into an example.

        Args:
            line: the parsed line; its `fields` were checked, and `keeps` said yes.
            example_id: its place among all examples.
            generator: the only source of randomness allowed; seeded by run, epoch and example.
        """
        return self._with_common_fields(
            line,
            Example(
                example_id=example_id,
                query=line["query"],
                target=line["target"],
                answers=(line["target"],),
            ),
        )

    def forbidden_passage_id(self, example: Example) -> str | None:
        """Id of the passage retrieval must not return; asked only when `filters` is True."""
        return None

    def score(self, prediction: str, answers: Sequence[str]) -> dict[str, float]:
        """Metrics of one prediction, each in 0..1, in the order they are logged.

        Predictions come without sentinels, so answers are compared without them, too.
        """
        return {"accuracy": accuracy(prediction, [without_sentinels(a) for a in answers])}

    @staticmethod
    def _with_common_fields(line: Mapping[str, Any], example: Example) -> Example:
        """Copy what every task passes through: id, metadata, gold passage, scores of passages."""
        scores = line.get("reranking_scores")
        return replace(
            example,
            line_id=line.get("id"),
            metadata=line.get("metadata"),
            gold_passage_id=line.get("gold_passage_id"),
            # What nobody asked for was not checked, and may be anything.
            reranking_scores=tuple(scores) if isinstance(scores, list) else None,
        )
