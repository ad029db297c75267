"""Fact checking: does the corpus support a claim, refute it, or say nothing about it?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from gazetteer.data.jsonl import Field
from gazetteer.records import Example
from gazetteer.tasks import base

ANSWERS = {"SUPPORTS": "true", "REFUTES": "false", "NOT ENOUGH INFO": "maybe"}
"""FEVER's labels, and the words the reader says instead."""


class Task(base.Task):
    """A claim in; "true", "false" or "maybe" out. Lines without a label are answered, not scored.

    Source:
        Data and labels of FEVER, arXiv:1803.05355; prompt and words of Atlas.
    """

    fields: ClassVar[tuple[Field, ...]] = (
        Field("claim", "text", required=True),
        Field("label", "text", required=False, allowed=tuple(ANSWERS)),
    )
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "eval_loss")

    @property
    def candidates(self) -> tuple[str, ...]:
        """The three words."""
        return tuple(ANSWERS.values())

    @property
    def training_fields(self) -> tuple[Field, ...]:
        """There has to be a label to learn."""
        claim, label = self.fields
        return (claim, replace(label, required=True))

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """The claim in a question's prompt; the target is the label's word."""
        label = line.get("label")
        answer = None if label is None else ANSWERS[label]
        return self._with_common_fields(
            line,
            Example(
                example_id=example_id,
                query=f"question: {line['claim']} answer: {base.SENTINEL}",
                target="" if answer is None else f"{base.SENTINEL} {answer}",
                answers=() if answer is None else (answer,),
            ),
        )
