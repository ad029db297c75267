"""Open-domain question answering."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from gazetteer.data.jsonl import Field
from gazetteer.metrics.answers import exact_match, f1
from gazetteer.records import Example
from gazetteer.tasks import base

DEFAULT_PROMPT = f"question: {{question}} answer: {base.SENTINEL}"


class Task(base.Task):
    """A question in; one of its answers out.

    Args:
        prompt: wraps the question (field `{question}`); `--qa_prompt_format`.
    """

    fields: ClassVar[tuple[Field, ...]] = (
        Field("question", "text", required=True),
        Field("answers", "texts", required=False),
        Field("target", "text", required=False),
    )
    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "f1", "eval_loss")
    flags: ClassVar[Mapping[str, str]] = {"prompt": "qa_prompt_format"}

    @property
    def training_fields(self) -> tuple[Field, ...]:
        """There has to be an answer to learn."""
        answers = Field("answers", "texts", required=True, unless="target")
        return tuple(answers if field.name == "answers" else field for field in self.fields)

    def __init__(self, prompt: str = DEFAULT_PROMPT) -> None:
        self._prompt = prompt

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """Query from the prompt; target is field `target`, or an answer drawn anew each epoch."""
        answers = tuple(line.get("answers") or ())
        target = line.get("target")
        if target is None and answers:
            target = generator.choice(answers)
        return self._with_common_fields(
            line,
            Example(
                example_id=example_id,
                query=self._prompt.format(question=line["question"]),
                target="" if target is None else f"{base.SENTINEL} {target}",
                answers=answers or (() if target is None else (target,)),
            ),
        )

    def score(self, prediction: str, answers: Sequence[str]) -> dict[str, float]:
        """Exact match and F1 after SQuAD normalisation, best over the answers."""
        return {"exact_match": exact_match(prediction, answers), "f1": f1(prediction, answers)}
