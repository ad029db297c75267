"""What tasks have in common that turn a passage into a query and a target."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from gazetteer.data.jsonl import Field
from gazetteer.metrics.answers import accuracy, f1
from gazetteer.metrics.rouge import rouge
from gazetteer.records import Example
from gazetteer.tasks import base


def words_as_shown(text: str) -> str:
    """Text as a decoded prediction shows it: no sentinels, one space between words."""
    return " ".join(base.without_sentinels(text).split())


class PassageTask(base.Task):
    """A query and a target made of one passage, which retrieval must not find again.

    Data files look like passages: `id`, `text`, and what else is there.

    Args:
        min_words: leave shorter texts out; `--min_words_per_lm_instance`.
    """

    flags: ClassVar[Mapping[str, str]] = {"min_words": "min_words_per_lm_instance"}
    fields: ClassVar[tuple[Field, ...]] = (Field("text", "text", required=True),)
    metrics: ClassVar[tuple[str, ...]] = (
        "eval_loss", "accuracy", "f1", "rouge_1", "rouge_2", "rouge_L",
    )  # fmt: skip
    filters: ClassVar[bool] = True
    left_out_reason: ClassVar[str] = "too short (--min_words_per_lm_instance), or empty"
    least_words: ClassVar[int] = 1

    def __init__(self, min_words: int | None = None) -> None:
        self._min_words = max(self.least_words, min_words or 0)

    def keeps(self, line: Mapping[str, Any]) -> bool:
        """Whether the text is long enough."""
        return len(base.without_sentinels(line["text"]).split()) >= self._min_words

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """Query and target of `parts`; metadata is the line, without passages that came with it."""
        query, target = self.parts(line, generator)
        example = Example(
            example_id=example_id,
            query=query,
            target=target,
            answers=(target,) if words_as_shown(target) else (),
        )
        shown = {name: value for name, value in line.items() if name != "passages"}
        return replace(self._with_common_fields(line, example), metadata=shown)

    def parts(self, line: Mapping[str, Any], generator: random.Random) -> tuple[str, str]:
        """Query and target of one passage."""
        raise NotImplementedError

    def forbidden_passage_id(self, example: Example) -> str | None:
        """The passage itself; ids of passages are text, those of lines may be numbers."""
        return None if example.line_id is None else str(example.line_id)

    def score(self, prediction: str, answers: Sequence[str]) -> dict[str, float]:
        """Accuracy, F1 and ROUGE, without normalisation but for sentinels and white space.

        Neither survives in a prediction, so neither is asked of it.
        """
        shown = words_as_shown(prediction)
        wanted = [words_as_shown(answer) for answer in answers]
        return {
            "accuracy": accuracy(shown, wanted),
            "f1": f1(shown, wanted, normalize=str),
            **rouge(shown, wanted),
        }
