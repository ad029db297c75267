"""ONE DENSE STEP, from tokens to loss, in the order in which it happens.

    queries  --embed--+--------------------------------------> scores --> loss
    passages --embed--+--> gather those of all ranks --------> (once for each embedding size)

No reader, no search: passages come with their query, the positive first. The training loop calls
this as it calls the step of `gazetteer.step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gazetteer.dense.grad_cache import ChunkSizes, embed_in_chunks
from gazetteer.dense.known_positives import known_among
from gazetteer.dense.records import DenseBatch
from gazetteer.distributed.collectives import (
    all_gather_rows,
    all_gather_rows_with_gradient,
)
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.losses.contrastive import (
    contrastive_loss,
    margin_mse_loss,
    score_divergence_loss,
    truncate_embeddings,
)
from gazetteer.losses.precision import at_least_float32
from gazetteer.stats import Stopwatch
from gazetteer.step import Stats

DenseLoss = Literal["infonce", "margin_mse", "kl"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLesson:
    """What the retriever learns from a batch.

    Attributes:
        loss: "infonce" learns from the positives, the others from a teacher's scores.
        passages: per query, its positive first (`--train_n_passages`).
        temperature: softmax of the scores (`--dense_temperature`).
        teacher_temperature: softmax of the teacher's scores (`--teacher_temperature`).
        gathers: the passages of all ranks are candidates (`--negatives_x_device`).
        dims: embedding sizes that each have to work alone (`--matryoshka_dims`); empty for whole
            embeddings only.
        normalizes: whether the retriever's embeddings have length 1, as cut ones shall then too.
    """

    loss: DenseLoss
    passages: int
    temperature: float = 1.0
    teacher_temperature: float = 1.0
    gathers: bool = False
    dims: tuple[int, ...] = ()
    normalizes: bool = False


class DenseStep(nn.Module):
    """One micro-batch from tokens to loss.

    Args:
        towers: `Towers`, replicated where there are several ranks. Only they are: what is inside
            may run several times in one step, and a loss over ranks is no replica's business.
        lesson: what is learned.
        chunks: embed in chunks of this size, with memory for the graph of one; None: all at once.
    """

    def __init__(self, towers: nn.Module, lesson: DenseLesson, chunks: ChunkSizes | None) -> None:
        super().__init__()
        self.towers = towers
        self.lesson = lesson
        self.chunks = chunks

    def forward(
        self, batch: DenseBatch, train_retriever: bool = True, share: QueryShare | None = None
    ) -> tuple[Tensor, Stats]:
        """The loss of one micro-batch. Its backward may be collective, too.

        Collective: every rank must call this, with any number of queries, zero included.

        Args:
            batch: this rank's share.
            train_retriever: there is nothing else to train; for the loop, which asks all alike.
            share: this rank's part of the step, which has one pass; None asks the others.

        Returns:
            The loss with gradient, such that gradients averaged over ranks are those of the whole
            batch in one process; and statistics, averages over this rank's queries.
        """
        clock = Stopwatch()
        share = share or QueryShare.of(len(batch.examples))
        with clock.time("runtime/embed"):
            queries, passages = map(at_least_float32, self._embed(batch))
        first = 0
        if self.lesson.gathers:
            passages, first = all_gather_rows_with_gradient(passages)
        excluded = self._excluded(batch, first)
        dims = self.lesson.dims or (queries.shape[1],)
        scores = [self._scores(queries, passages, dim) for dim in dims]
        losses = [self._loss(each, batch, first, share.mean, excluded) for each in scores]
        loss = torch.stack(losses).sum()
        average = share.logged(loss)
        stats: Stats = {"loss/retriever_loss": average, "loss/train_loss": average}
        if excluded is not None:
            stats["loss/known_positives"] = excluded.sum().item() / max(share.mine, 1)
        return loss, stats | clock.seconds

    def _excluded(self, batch: DenseBatch, first: int) -> Bool[Tensor, "query candidate"] | None:
        """Candidates that are known to answer the query, but for the positive it learns from.

        Collective where passages are gathered. None where nothing is known.
        """
        if batch.keys is None or self.lesson.loss != "infonce":
            return None
        passages = batch.keys.passages
        if self.lesson.gathers:
            passages, _ = all_gather_rows(passages)
        excluded = known_among(batch.keys.positives, passages)
        numbers = torch.arange(len(excluded))
        excluded[numbers, first + self.lesson.passages * numbers] = False
        return excluded

    def _embed(
        self, batch: DenseBatch
    ) -> tuple[Float[Tensor, "query dim"], Float[Tensor, "passage dim"]]:
        texts = batch.query_tokens, batch.passage_tokens
        if self.chunks is None:
            return self.towers(*texts)
        return embed_in_chunks(self.towers, *texts, self.chunks)

    def _scores(
        self, queries: Float[Tensor, "query dim"], passages: Float[Tensor, "passage dim"], dim: int
    ) -> Float[Tensor, "query candidate"]:
        """Dot products of the first `dim` numbers: with all passages, or with the query's own."""
        lesson = self.lesson
        queries = truncate_embeddings(queries, dim, normalize=lesson.normalizes)
        passages = truncate_embeddings(passages, dim, normalize=lesson.normalizes)
        if lesson.loss == "infonce":
            return queries @ passages.T
        return torch.einsum("qd,qpd->qp", queries, passages.view(-1, lesson.passages, dim))

    def _loss(
        self,
        scores: Float[Tensor, "query candidate"],
        batch: DenseBatch,
        first: int,
        count: Float[Tensor, ""],
        excluded: Bool[Tensor, "query candidate"] | None,
    ) -> Float[Tensor, ""]:
        """The loss of one embedding size; the first of this rank's passages is candidate `first`.

        Source:
            OpenMatch: the positive of query i is passage i * train_n_passages of its rank.
        """
        lesson = self.lesson
        if lesson.loss == "infonce":
            positives = first + lesson.passages * torch.arange(len(scores), device=scores.device)
            return contrastive_loss(
                scores,
                positives,
                temperature=lesson.temperature,
                excluded=None if excluded is None else excluded.to(scores.device),
                query_count=count,
            )
        assert batch.teacher_scores is not None, f"--dense_loss {lesson.loss} needs a teacher"
        teacher = batch.teacher_scores.to(scores.device)
        if lesson.loss == "margin_mse":
            return margin_mse_loss(scores, teacher, query_count=count)
        return score_divergence_loss(
            scores,
            teacher,
            temperature=lesson.temperature,
            teacher_temperature=lesson.teacher_temperature,
            query_count=count,
        )
