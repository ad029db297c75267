"""Questions with lettered options, such as MMLU, and their options in other orders."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, ClassVar, Literal

from transformers import PreTrainedTokenizerBase

from gazetteer.data.jsonl import Field
from gazetteer.records import Example
from gazetteer.tasks import base

Permutations = Literal["single", "cyclic", "all"]

MAX_PROMPT_TOKENS = 356
"""Of the reader, end token included: what Atlas leaves to the question, so that in 512 tokens a
passage still fits beside it."""


class Task(base.Task):
    """A question and its options in; the letter of the right one out.

    Args:
        options: how many options each question has; `--multiple_choice_num_options`.
        train_permutations: orders of the options to learn from: as they stand, every rotation, or
            every order; `--multiple_choice_train_permutations`.
        eval_permutations: orders whose probabilities are averaged, so that what the reader thinks
            of a letter does not count for the option behind it.

    Source:
        Format, prompt and permutations of Atlas, arXiv:2208.03299, appendix.
    """

    fields: ClassVar[tuple[Field, ...]] = (
        Field("question", "text", required=True),
        Field("options", "options", required=True),
        Field("answer", "text", required=False),
    )
    metrics: ClassVar[tuple[str, ...]] = ("debiased_accuracy", "accuracy", "eval_loss")
    flags: ClassVar[Mapping[str, str]] = {
        "options": "multiple_choice_num_options",
        "train_permutations": "multiple_choice_train_permutations",
        "eval_permutations": "multiple_choice_eval_permutations",
    }
    debiases: ClassVar[bool] = True

    def __init__(
        self,
        options: int = 4,
        train_permutations: Permutations = "single",
        eval_permutations: Permutations = "single",
    ) -> None:
        self._letters = tuple(string.ascii_uppercase[:options])
        self._train_orders = orders(options, train_permutations)
        self._eval_orders = orders(options, eval_permutations)
        self._tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The letters."""
        return self._letters

    @property
    def evaluation_fields(self) -> tuple[Field, ...]:
        """Exactly the options that were announced, and an answer among them, if any."""
        question, options, answer = self.fields
        flag = "multiple_choice_num_options"
        return (
            question,
            replace(options, allowed=self._letters, flag=flag),
            replace(answer, allowed=self._letters, flag=flag),
        )

    @property
    def training_fields(self) -> tuple[Field, ...]:
        """There has to be an answer to learn."""
        question, options, answer = self.evaluation_fields
        return (question, options, replace(answer, required=True))

    def orders(self, *, is_training: bool) -> Sequence[tuple[int, ...]]:
        """Orders in which the options of each line are read; the first is the line's own."""
        return self._train_orders if is_training else self._eval_orders

    def reordered(self, line: Mapping[str, Any], order: tuple[int, ...]) -> Mapping[str, Any]:
        """The line with option order[i] at letter i, its answer's new letter, and `is_original`."""
        texts = [line["options"][letter] for letter in self._letters]
        shown = [texts[place] for place in order]
        changed: dict[str, Any] = {
            "options": dict(zip(self._letters, shown, strict=True)),
            "is_original": order == self._eval_orders[0],
        }
        answer = line.get("answer")
        if answer is not None:
            changed["answer"] = self._letters[order.index(self._letters.index(answer))]
        return {**line, **changed}

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Prompts are measured in the reader's tokens; without a reader they stay whole."""
        self._tokenizer = tokenizer

    def example(
        self, line: Mapping[str, Any], example_id: int, generator: random.Random
    ) -> Example:
        """Query from question and options; target and answer are a letter.

        Without an answer the target is the first letter, which nothing is learnt from or scored
        by: the letters' scores are read where the target has its letter.
        """
        answer = line.get("answer")
        example = Example(
            example_id=example_id,
            query=self._query(line["question"], line["options"]),
            target=f"{base.SENTINEL} {answer or self._letters[0]}",
            answers=() if answer is None else (answer,),
        )
        shown = {name: value for name, value in line.items() if name != "passages"}
        return replace(self._with_common_fields(line, example), metadata=shown)

    def _query(self, question: str, options: Mapping[str, str]) -> str:
        """The prompt, its question cut from the left until it fits."""
        shown = " ".join(f"({letter}) {options[letter]}" for letter in self._letters)
        end = f" options: {shown} answer: {base.SENTINEL}"
        if self._fits(question, end):
            return _prompt(question, end)
        # Characters cut, rather than tokens: what is left is text as it was written.
        low, high = 0, len(question)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._fits(question[middle:], end) else (middle, high)
        return _prompt(question[high:].lstrip(), end)

    def _fits(self, question: str, end: str) -> bool:
        if self._tokenizer is None:
            return True
        ids = self._tokenizer(_prompt(question, end), verbose=False)["input_ids"]
        return len(ids) <= MAX_PROMPT_TOKENS  # type: ignore[arg-type]


def _prompt(question: str, end: str) -> str:
    return f"question: {question}{end}"


def orders(options: int, kind: Permutations) -> tuple[tuple[int, ...], ...]:
    """Orders of `options` things, the identity first: itself, its rotations, or all of them."""
    places = tuple(range(options))
    if kind == "single":
        return (places,)
    if kind == "cyclic":
        return tuple(places[start:] + places[:start] for start in places)
    return tuple(permutations(places))
