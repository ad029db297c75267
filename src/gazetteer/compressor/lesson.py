"""How a compressor learns beyond the reader's loss: from whole passages, and what is relevant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.compressor.compress import Compressed
from gazetteer.distributed.collectives import all_reduce_mean
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.losses.compression import (
    relevance_posterior_loss,
    relevance_regression_loss,
    token_distillation_loss,
)
from gazetteer.modes import evaluation_mode
from gazetteer.reader import Reader
from gazetteer.reader.passage_scores import passage_log_likelihoods
from gazetteer.records import Batch, Hits, Targets, TokenIds

RerankTarget = Literal["none", "file", "reader"]
InputsOf = Callable[[Sequence[str], Hits], list[list[TokenIds]]]
"""The reader's token ids of each query's passages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressorLesson:
    """What teaches a compressor; the reader's loss alone with all weights 0.

    Attributes:
        distill_weight: of the token KL to the reader on whole passages.
        whole_inputs: what the reader reads of these; None where the weight is 0.
        rerank_target: what relevance is learned from.
        rerank_weight: of that.
        reader_temperature: softmax of the reader's likelihoods (`--temperature_gold`).
    """

    distill_weight: float = 0.0
    whole_inputs: InputsOf | None = None
    rerank_target: RerankTarget = "none"
    rerank_weight: float = 0.0
    reader_temperature: float = 1.0

    def losses(
        self,
        reader: Reader,
        batch: Batch,
        hits: Hits,
        compressed: Compressed,
        logits: Float[Tensor, "query target vocab"],
        share: QueryShare,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The weighted sum of what there is to learn, and each loss as it is, by name.

        Collective: every rank must call this.

        Args:
            reader: teaches in evaluation mode, without gradient.
            batch: has targets.
            hits: whose passages were compressed.
            compressed: carries gradient.
            logits: on compressed passages; carry gradient.
            share: of the queries; where this rank has none, those given here count as none.
        """
        targets = batch.targets
        assert targets is not None, "training needs targets"
        total, named = torch.zeros((), device=logits.device), {}
        if self.distill_weight:
            teacher = self._teacher_logits(reader, batch, hits, targets)
            loss = token_distillation_loss(logits, teacher, targets.mask, token_count=share.tokens)
            total, named["loss/distill_loss"] = total + self.distill_weight * loss, loss.detach()
        if self.rerank_target != "none" and compressed.relevance is not None:
            loss = self._relevance_loss(reader, batch, compressed, compressed.relevance, share)
            total, named["loss/rerank_loss"] = total + self.rerank_weight * loss, loss.detach()
        return total, named

    @torch.no_grad()
    def _teacher_logits(
        self, reader: Reader, batch: Batch, hits: Hits, targets: Targets
    ) -> Float[Tensor, "query target vocab"]:
        assert self.whole_inputs is not None, "distilling needs whole passages"
        with evaluation_mode(reader):
            whole = reader.encode(self.whole_inputs(batch.queries, hits))
            return reader.decode(whole.fused(), targets.decoder_input_ids)

    def _relevance_loss(
        self,
        reader: Reader,
        batch: Batch,
        compressed: Compressed,
        relevance: Float[Tensor, "query passage"],
        share: QueryShare,
    ) -> Float[Tensor, ""]:
        mask = torch.from_numpy(compressed.passages.lengths > 0).to(relevance.device)
        if self.rerank_target == "file":
            # A query without passages is read alone, and was scored by nobody.
            scores = teacher_scores(batch, relevance.shape[1]).to(relevance.device)
            mask = mask & scores.isfinite()
            # Of this pass. Queries of others are taken to have as many passages with a score.
            scored = all_reduce_mean(mask.sum().float() * float(share.mine > 0))
            count = scored * (share.mean / share.in_pass).to(scored)
            return relevance_regression_loss(
                relevance, scores.nan_to_num(), mask, passage_count=count
            )
        targets, states = batch.targets, compressed.passages.detached()
        assert targets is not None, "training needs targets"
        with evaluation_mode(reader):
            likelihoods = passage_log_likelihoods(reader, states, targets)
        return relevance_posterior_loss(
            relevance,
            likelihoods,
            mask,
            reader_temperature=self.reader_temperature,
            query_count=share.mean,
        )


def teacher_scores(batch: Batch, passages: int) -> Float[Tensor, "query passage"]:
    """Scores that came with the examples, of their first passages; nan where there is none."""
    table = np.full((len(batch.examples), passages), np.nan, dtype=np.float32)
    for row, example in zip(table, batch.examples, strict=True):
        scores = (example.reranking_scores or ())[:passages]
        row[: len(scores)] = scores
    return torch.from_numpy(table)
