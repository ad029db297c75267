"""Answers from a closed set: their scores read off the reader, averaged over orders of options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.data.targets import TargetTokenizer
from gazetteer.distributed.collectives import all_gather_rows
from gazetteer.errors import OptionError
from gazetteer.reader import FusedStates, Reader
from gazetteer.reader.candidates import candidate_log_likelihoods
from gazetteer.records import Batch, Example, Ranks, Targets
from gazetteer.tasks.base import SENTINEL

LOGITS, LIKELIHOODS = "choice_logits", "candidate_log_likelihoods"
"""Fields of a record: the first is Atlas's name, the second ours."""


@dataclass(frozen=True, slots=True)
class LetterPlace:
    """Where a decoder that is fed any candidate has to choose between them.

    Attributes:
        position: of the token that differs, counted from the end of the decoder's prompt.
        ids: that token, for each candidate.
    """

    position: int
    ids: tuple[int, ...]

    @classmethod
    def find(cls, tokenizer: TargetTokenizer, candidates: Sequence[str]) -> LetterPlace:
        """The first token by which the candidates' targets differ; for T5 and letters, the second.

        Raises:
            OptionError: it does not tell all of them apart.
        """
        targets = _targets(tokenizer, [""], candidates)
        start = len(targets.prompts[0]) if targets.prompts else 0
        for position, column in enumerate(targets.labels.t().tolist()[start:]):
            if len(set(column)) == len(candidates):
                return cls(position, tuple(column))
            if len(set(column)) > 1:
                break
        raise OptionError(
            f"the reader's tokenizer does not tell the answers {', '.join(candidates)} apart by one"
            " token (--reader_model_type, --target_maxlength, --decoder_format)"
        )

    def logits(
        self, logits: Float[Tensor, "query target vocab"], targets: Targets
    ) -> Float[Tensor, "query candidate"]:
        """Scores of the candidates' tokens where each target has its own; float32."""
        prompts = targets.prompts or ((),) * len(logits)
        positions = torch.tensor([len(prompt) + self.position for prompt in prompts])
        rows = torch.arange(len(logits))
        return logits[rows, positions][:, list(self.ids)].float()


class ClosedAnswers:
    """What is asked about a closed set of answers, besides generating one.

    Args:
        candidates: the set.
        tokenizer: of targets.
        debiases: report the candidates' logits, for `debiased_accuracy`.
        compares: report the candidates' likelihoods (`--rank_candidates`).

    Raises:
        OptionError: the tokenizer does not tell the candidates apart.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        tokenizer: TargetTokenizer,
        *,
        debiases: bool,
        compares: bool,
    ) -> None:
        self.compares = compares
        self._candidates = tuple(candidates)
        self._tokenizer = tokenizer
        self._place = LetterPlace.find(tokenizer, candidates) if debiases else None

    def ask(
        self,
        reader: Reader,
        context: FusedStates,
        logits: Float[Tensor, "query target vocab"],
        batch: Batch,
    ) -> list[dict[str, dict[str, float]]]:
        """Further fields of each example's record.

        Args:
            reader: in evaluation mode.
            context: its encoding of the batch.
            logits: of the batch's targets.
            batch: what was asked; not empty.
        """
        assert batch.targets is not None
        found: dict[str, Tensor] = {}
        if self._place is not None:
            found[LOGITS] = self._place.logits(logits, batch.targets)
        if self.compares:
            targets = _targets(self._tokenizer, batch.queries, self._candidates, logits.device)
            found[LIKELIHOODS] = candidate_log_likelihoods(reader, context, targets)
        rows = {name: values.tolist() for name, values in found.items()}
        return [
            {name: dict(zip(self._candidates, rows[name][i], strict=True)) for name in rows}
            for i in range(len(batch.examples))
        ]

    @staticmethod
    def score(
        fields: Mapping[str, Mapping[str, float]], answers: Sequence[str]
    ) -> dict[str, float]:
        """Whether the likeliest candidate is right; the first of equal ones counts."""
        if LIKELIHOODS not in fields:
            return {}
        likelihoods = fields[LIKELIHOODS]
        return {"ranking_accuracy": float(max(likelihoods, key=likelihoods.__getitem__) in answers)}


def _targets(
    tokenizer: TargetTokenizer,
    queries: Sequence[str],
    candidates: Sequence[str],
    device: torch.device | None = None,
) -> Targets:
    """Every candidate of the first query, then of the second, ..."""
    texts = [f"{SENTINEL} {candidate}" for candidate in candidates] * len(queries)
    return tokenizer.encode([q for q in queries for _ in candidates], texts, device)


def option_probabilities(
    logits: Float[Tensor, "line order letter"], orders: Sequence[tuple[int, ...]]
) -> Float[Tensor, "line order option"]:
    """Probability of each option in each order: softmax over letters, put back in place.

    Options are told apart by their place, so two of the same text are still two.

    Args:
        logits: of the letters.
        orders: which option stood at each letter.

    Source:
        The appendix of Atlas, arXiv:2208.03299.
    """
    letter_of = torch.tensor(orders).argsort(dim=1)
    return logits.softmax(dim=2).gather(2, letter_of.expand_as(logits))


def likeliest(probabilities: Float[Tensor, "*line option"]) -> Int[Tensor, "*line"]:
    """The first option whose probability is the largest but for rounding.

    Options of the same text are equally likely over all orders; without the margin the size of a
    batch would decide between them.
    """
    largest = probabilities.amax(dim=-1, keepdim=True)
    return (probabilities >= largest - 1e-6).int().argmax(dim=-1)


class ChoiceTally:
    """Averages over orders that were answered anywhere, in any batch, by any worker.

    Args:
        candidates: the letters.
        orders: of their options; example e is line e // orders in order e % orders.
    """

    def __init__(self, candidates: Sequence[str], orders: Sequence[tuple[int, ...]]) -> None:
        self._candidates = candidates
        self._orders = orders
        self._rows: list[list[float]] = []

    def add(self, example: Example, fields: Mapping[str, Mapping[str, float]]) -> None:
        """Note the logits of one example, and which option is right, -1 where nobody knows."""
        right = -1
        if example.answers:
            order = self._orders[example.example_id % len(self._orders)]
            right = order[self._candidates.index(example.answers[0])]
        self._rows.append([example.example_id, right, *fields[LOGITS].values()])

    def scores(self, ranks: Ranks) -> Iterator[tuple[int, dict[str, float]]]:
        """Number and `debiased_accuracy` of this rank's share of the lines that have an answer.

        Collective: every rank must call this, and take every value.
        """
        mine = torch.tensor(self._rows, dtype=torch.float64).view(-1, 2 + len(self._candidates))
        rows, _ = all_gather_rows(mine)
        rows = rows[rows[:, 0].argsort()].view(-1, len(self._orders), rows.shape[1])
        chosen = likeliest(option_probabilities(rows[:, :, 2:], self._orders).mean(dim=1))
        answers = rows[:, 0, 1].long()
        for line in range(ranks.rank, len(rows), ranks.world_size):
            if answers[line] >= 0:
                yield line, {"debiased_accuracy": float(chosen[line] == answers[line])}


def merger(
    candidates: Sequence[str], orders: Sequence[tuple[int, ...]]
) -> Callable[[Sequence[dict[str, Any]]], dict[str, Any]]:
    """What makes one record of a line out of its records in each order.

    The record is that of the first order, the line's own; its generation is the letter of the
    likeliest option, `choice_probs` the average, `all_probs` the probability in each order,
    `permutations` the records it was made from. As in Atlas.
    """

    def merge(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
        logits = [[record[LOGITS][letter] for letter in candidates] for record in records]
        each = option_probabilities(torch.tensor([logits], dtype=torch.float64), orders)[0]
        average = each.mean(dim=0)
        first = {name: value for name, value in records[0].items() if name != LOGITS}
        return first | {
            "generation": candidates[int(likeliest(average))],
            "choice_probs": dict(zip(candidates, average.tolist(), strict=True)),
            "all_probs": dict(zip(candidates, each.t().tolist(), strict=True)),
            "permutations": list(records),
        }

    return merge
