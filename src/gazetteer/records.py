"""What travels between stages: frozen values, no behaviour beyond reading themselves.

A `row` is the global position of a passage in its corpus (0 .. passages - 1), the same on every
rank and for every world size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

PassageRecord = dict[str, Any]
"""One passage as users see it: id, title (section merged in), text and every other field kept."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its peers. Built once by `distributed.launch`.

    Attributes:
        rank: among the processes that share its work.
        local_rank: among all processes on this machine.
        world_size: processes that share its work.
        local_world_size: processes on this machine, whatever they do.
        device: where this process computes.
        set_aside: processes beside the peers that only embed (`--refresh_workers`).
        is_set_aside: this is one of those; its peers are the others, and it takes part in no
            collective.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    set_aside: int = 0
    is_set_aside: bool = False

    @property
    def is_main(self) -> bool:
        """True on the trainers' rank 0, which logs, writes results and renames checkpoints."""
        return self.rank == 0 and not self.is_set_aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One line of data, as its task understood it.

    Attributes:
        example_id: position among all examples of the data files, 0-based; fixes output order.
        query: text the retriever embeds and the reader is prompted with.
        target: text the reader learns to produce; "" where the data has none.
        answers: every acceptable answer, for scoring; may be empty.
        line_id: the line's own `id`, echoed into results as it was given.
        metadata: the line's own `metadata`, echoed into results.
        passage_rows: rows of the passages that came with the example (`--use_file_passages`).
        gold_passage_id: id of the passage known to hold the answer, where the data says so.
        reranking_scores: of the passages that came along, by a teacher; None where the data has
            none.
    """

    example_id: int
    query: str
    target: str = ""
    answers: tuple[str, ...] = ()
    line_id: str | int | None = None
    metadata: Any = None
    passage_rows: tuple[int, ...] | None = None
    gold_passage_id: str | None = None
    reranking_scores: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Hits:
    """What search returns for a batch of queries, best first.

    Every query has the same number of hits: min(top_k, passages in the index).

    Attributes:
        rows: global rows, int64, on the CPU.
        scores: query-passage dot products, float32, on the CPU. No gradient.
    """

    rows: Int[Tensor, "query hit"]
    scores: Float[Tensor, "query hit"]

    def first(self, count: int) -> Hits:
        """The best `count` hits of every query (all of them if there are fewer)."""
        return Hits(self.rows[:, :count], self.scores[:, :count])

    def taken(self, places: Int[Tensor, "query chosen"]) -> Hits:
        """The hits at these places, in this order; a place beyond the last is no passage."""
        beyond = max(0, int(places.max()) + 1 - self.rows.shape[1]) if places.numel() else 0
        rows, scores = F.pad(self.rows, (0, beyond), value=-1), F.pad(self.scores, (0, beyond))
        return Hits(rows.gather(1, places), scores.gather(1, places))


TokenIds = np.ndarray
"""Token ids of one text, int32, one-dimensional."""

TokenLists = Sequence[TokenIds]
"""Token ids of several texts, unpadded."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What the reader should produce, as the decoder needs it.

    Attributes:
        labels: token ids to predict; -100 where ignored (padding, decoder prompt).
        decoder_input_ids: the tokens before them, start token first.
        prompts: decoder-prompt ids of each query, unpadded (`--decoder_prompt_format`); forced
            at generation. Empty without such a format.
    """

    labels: Int[Tensor, "query target"]
    decoder_input_ids: Int[Tensor, "query target"]
    prompts: tuple[tuple[int, ...], ...] = ()

    @property
    def mask(self) -> Tensor:
        """True at labels that count."""
        return self.labels != -100

    @property
    def token_counts(self) -> Tensor:
        """Labels that count, per query; at least 1 so that empty targets divide cleanly."""
        return self.mask.sum(dim=1).clamp_min(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one rank handles at once; may be empty.

    Attributes:
        examples: the lines behind it.
        query_tokens: the retriever's ids of each query, unpadded.
        targets: what the reader should produce; None where nothing is read.
        forbidden: for each query the id of a passage it must not see; empty when the task does
            not filter.
    """

    examples: tuple[Example, ...]
    query_tokens: TokenLists
    targets: Targets | None
    forbidden: tuple[str | None, ...] = ()

    @property
    def target_tokens(self) -> Tensor | None:
        """How many tokens the reader learns from; None where nothing is read."""
        return None if self.targets is None else self.targets.mask.sum()

    @property
    def queries(self) -> list[str]:
        """The examples' queries."""
        return [example.query for example in self.examples]
