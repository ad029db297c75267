"""Knowledge-intensive tasks in the format of KILT."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from gazetteer.data.jsonl import Field
from gazetteer.metrics.answers import accuracy, exact_match, f1
from gazetteer.records import Example
from gazetteer.tasks import base


class Task(base.Task):
    """An input in; the answer of one of its outputs out. Inputs without answers are not scored.

    Lines whose own field `filename` contains "fever" are claims: the answer is "true" for SUPPORTS
    and "false" for everything else.

    Source:
        Format of KILT, arXiv:2009.02252; prompt and words of Atlas.
    """

    fields: ClassVar[tuple[Field, ...]] = (
        Field("input", "text", required=True),
        Field("output", "outputs", required=False),
        Field("filename", "text", required=False),
    )
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "exact_match", "f1", "eval_loss")

    @property
    def training_fields(self) -> tuple[Field, ...]:
        """There has to be an answer to learn."""
        question, output, filename = self.fields
        return (question, replace(output, required=True), filename)

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """The input in a question's prompt; the target is an answer, drawn anew each epoch."""
        answers = _answers(line)
        return self._with_common_fields(
            line,
            Example(
                example_id=example_id,
                query=f"question: {line['input']} answer: {base.SENTINEL}",
                target=f"{base.SENTINEL} {generator.choice(answers)}" if answers else "",
                answers=answers,
            ),
        )

    def score(self, prediction: str, answers: Sequence[str]) -> dict[str, float]:
        """Equal to the letter; equal, and overlap, after SQuAD normalisation; best over answers."""
        return {
            "accuracy": accuracy(prediction, answers),
            "exact_match": exact_match(prediction, answers),
            "f1": f1(prediction, answers),
        }


def _answers(line: Mapping[str, Any]) -> tuple[str, ...]:
    """Every different answer, in the order of the line."""
    given = [(output.get("answer") or "").strip() for output in line.get("output") or ()]
    answers = [answer for answer in given if answer]
    if "fever" in (line.get("filename") or ""):
        answers = ["true" if answer == "SUPPORTS" else "false" for answer in answers]
    return tuple(dict.fromkeys(answers))
