"""ONE TRAINING STEP, query to losses, in the order in which it happens. Read this page first.

    query --embed--> search every shard --> filter --> re-rank --> hits --> reader tokens
          --> encode or compress passages apart --> decode over all of them --> reader loss
          --> which passages helped? --> retriever loss

The stages do not know each other; they meet here, through the records of `records.py`. Evaluation
walks the same way as far as the reader's answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.compressor import Compressed, Compressor, CompressorLesson
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.targets import strip_sentinels
from gazetteer.data.tokens import PassageTokens
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.lead.layers import NO_LAYERS
from gazetteer.lead.reader_lesson import ReaderLayers, layer_scores
from gazetteer.losses import RETRIEVER_LOSSES, reader_loss
from gazetteer.modes import evaluation_mode
from gazetteer.reader import EncodedPassages, FusionReader, Reader
from gazetteer.reader.attention import attention_statistics, record_cross_attention
from gazetteer.reader.passage_scores import (
    layer_attention_scores,
    leave_one_out_nll,
    passage_attention_scores,
    passage_log_likelihoods,
    passage_token_log_probs,
)
from gazetteer.records import Batch, Hits, Targets, TokenIds
from gazetteer.retriever import DualEncoder
from gazetteer.selection import Selector
from gazetteer.stats import Stopwatch

Stats = dict[str, Tensor | float]
"""Numbers worth logging, by name; tensors stay on the device until they are averaged."""


@runtime_checkable
class PassageSource(Protocol):
    """Where the passages of a batch come from."""

    def hits(self, batch: Batch, top_k: int, clock: Stopwatch) -> Hits:
        """The passages of each query, best first; a row of -1 stands for no passage."""
        ...


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Passages are searched: the usual case.

    Attributes:
        retriever: embeds the queries.
        selector: searches, filters and re-ranks.
    """

    retriever: DualEncoder
    selector: Selector

    def hits(self, batch: Batch, top_k: int, clock: Stopwatch) -> Hits:
        """Collective: every rank must call this, with any number of queries, zero included."""
        with clock.time("runtime/retrieve"):
            queries = self.retriever.embed_for_search(batch.query_tokens)
            return self.selector.select(queries, top_k, batch.forbidden, clock)


@dataclass(frozen=True, slots=True)
class GivenPassages:
    """Passages come with the example (`--use_file_passages`)."""

    def hits(self, batch: Batch, top_k: int, clock: Stopwatch) -> Hits:
        """The first top_k passages of each example, in the order of the file; scores are 0."""
        given = [(example.passage_rows or ())[:top_k] for example in batch.examples]
        width = max((len(rows) for rows in given), default=0)
        rows = [list(part) + [-1] * (width - len(part)) for part in given]
        table = torch.tensor(rows, dtype=torch.int64).view(len(rows), width)
        return Hits(table, torch.zeros(table.shape))


@dataclass(frozen=True, slots=True)
class ReaderInputs:
    """What the reader is given of each hit: prompt and passage, tokenised.

    Attributes:
        tokens: the reader's tokens of the corpus; None with the book closed.
        closed_book: tokenises a query alone, for all of them when `tokens` is None, else for those
            that no passage was given with; None gives nothing in their place, since a decoder-only
            reader has its question elsewhere.
        has_sentinels: the model knows T5's; otherwise they are taken out of the queries.
    """

    tokens: PassageTokens | None
    closed_book: QueryTokenizer | None = None
    has_sentinels: bool = True

    def of(self, queries: Sequence[str], hits: Hits) -> list[list[TokenIds]]:
        """Token ids for each query and hit; rows of -1 are left out, no rows: the query alone."""
        queries = self._worded(queries)
        if self.tokens is None:
            alone = self.closed_book
            return [[ids] for ids in alone.encode(queries)] if alone else [[] for _ in queries]
        rows = [row[row >= 0] for row in hits.rows.numpy()]
        inputs = self.tokens.reader_inputs(queries, rows)
        alone = [number for number, row in enumerate(rows) if len(row) == 0]
        if alone and self.closed_book is not None:
            prompts = self.closed_book.encode([queries[number] for number in alone])
            for number, ids in zip(alone, prompts, strict=True):
                inputs[number] = [ids]
        return inputs

    def beside(self, queries: Sequence[str]) -> list[int]:
        """How many of the ids of each query's inputs are not those of a passage."""
        worded = self._worded(queries)
        return [0] * len(queries) if self.tokens is None else self.tokens.beside_passages(worded)

    def _worded(self, queries: Sequence[str]) -> Sequence[str]:
        return queries if self.has_sentinels else [strip_sentinels(query) for query in queries]


def encode_passages(
    reader: Reader,
    compressor: Compressor | None,
    inputs: Sequence[Sequence[TokenIds]],
    beside: Sequence[int],
) -> Compressed:
    """Passages as the reader decodes over them: its own states, or a compressor's few vectors."""
    if compressor is None:
        return Compressed(reader.encode(inputs))
    return compressor.compress(inputs, beside)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverLesson:
    """How the retriever learns from the reader.

    Attributes:
        mode: key of `RETRIEVER_LOSSES`.
        passages: how many of the hits it learns from (`--retriever_n_context`).
        retriever_temperature: softmax of the retriever's scores (`--temperature_score`).
        reader_temperature: softmax of the reader's signal (`--temperature_gold`).
        reuse_encodings: score passages on the encoder states of the training pass; exact without
            dropout, otherwise a change of meaning (`--reuse_reader_encodings`).
        log_attention: log how attention statistics agree with the signal.
        layers: the reader's layers teach the retriever's as well; None: they do not.
    """

    mode: str
    passages: int
    retriever_temperature: float
    reader_temperature: float
    reuse_encodings: bool = False
    log_attention: bool = False
    layers: ReaderLayers | None = None


class TrainingStep(nn.Module):
    """One micro-batch from queries to loss. Wrapped whole in DDP.

    Args:
        source: where passages come from.
        inputs: what the reader is given of them.
        retriever_tokens: the retriever's tokens of the corpus; None when it is not trained.
        retriever: None where nothing is retrieved.
        reader: answers from them.
        n_context: passages given to the reader.
        lesson: how the retriever learns; None when it does not.
        compressor: makes few vectors of each passage; None: the reader encodes them whole.
        compressor_lesson: what teaches it beside the reader's loss.
        stand_in: makes a batch of one example, for a rank that has none while others have.
    """

    def __init__(
        self,
        *,
        source: PassageSource,
        inputs: ReaderInputs,
        retriever_tokens: PassageTokens | None,
        retriever: DualEncoder | None,
        reader: Reader,
        n_context: int,
        lesson: RetrieverLesson | None,
        compressor: Compressor | None = None,
        compressor_lesson: CompressorLesson | None = None,
        stand_in: Callable[[], Batch] | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.inputs = inputs
        self.retriever_tokens = retriever_tokens
        self.retriever = retriever
        self.reader = reader
        self.n_context = n_context
        self.lesson = lesson
        self.compressor = compressor
        self.compressor_lesson = compressor_lesson
        self.stand_in = stand_in

    def forward(
        self, batch: Batch, train_retriever: bool, share: QueryShare | None = None
    ) -> tuple[Tensor, Stats]:
        """Losses of one pass of a step.

        Collective: every rank must call this, with the same `train_retriever`.

        Args:
            batch: this rank's part; any number of examples.
            train_retriever: False while the retriever is frozen.
            share: what part of the step it is; None: the step has no other pass.

        Returns:
            The loss (with gradient): reader loss + retriever loss, unweighted, such that gradients
            added up over passes and averaged over ranks are those of the whole step; and
            statistics, averages over this rank's queries.

        Source:
            Atlas trains on the plain sum of both losses.
        """
        clock = Stopwatch()
        share = share or QueryShare.of(len(batch.examples), batch.target_tokens)
        if not batch.examples:
            # Others search and average gradients with this rank, so it does all that they do.
            assert self.stand_in is not None, "a rank without examples needs one to stand in"
            batch = self.stand_in()
        lesson = self.lesson if train_retriever else None
        wanted = max(self.n_context, lesson.passages) if lesson else self.n_context
        hits = self.source.hits(batch, wanted, clock)
        inputs = self.inputs.of(batch.queries, hits)
        beside = self.inputs.beside(batch.queries) if self.compressor else ()
        targets = batch.targets
        assert targets is not None, "training needs targets"

        read = [passages[: self.n_context] for passages in inputs]
        compressed = encode_passages(self.reader, self.compressor, read, beside)
        encoded = compressed.passages
        logits = self.reader.decode(encoded.fused(), targets.decoder_input_ids)
        loss = reader_loss(logits, targets.labels, token_count=share.tokens)
        stats: Stats = {"loss/reader_loss": share.logged(loss)}
        if compressed.rate is not None:
            stats["compression_rate"] = compressed.rate
        if self.compressor is not None and self.compressor_lesson is not None:
            more, named = self.compressor_lesson.losses(
                self.reader, batch, hits.first(self.n_context), compressed, logits, share
            )
            loss = loss + more
            stats |= {name: share.logged(value) for name, value in named.items()}
        if lesson is not None:
            pairs = lesson.layers.pairs() if lesson.layers else NO_LAYERS
            scores, by_layer = self._scores(batch, hits.first(lesson.passages), pairs.student)
            states = self._states_to_score(lesson, inputs, beside, encoded)
            signal, lesson_stats = self._signal(lesson, states, targets)
            lesson_loss = RETRIEVER_LOSSES[lesson.mode](
                scores,
                signal,
                retriever_temperature=lesson.retriever_temperature,
                reader_temperature=lesson.reader_temperature,
                target_mask=targets.mask,
                token_count=share.tokens,
                query_count=share.mean,
            )
            loss = loss + lesson_loss
            stats |= {"loss/retriever_loss": share.logged(lesson_loss), **lesson_stats}
            if lesson.layers is not None and by_layer is not None:
                attention = self._layer_attention(states, targets)[list(pairs.teacher)]
                layer_loss = lesson.layers.loss(
                    by_layer,
                    attention,
                    per_passage(signal),
                    retriever_temperature=lesson.retriever_temperature,
                    reader_temperature=lesson.reader_temperature,
                    share=share,
                )
                loss = loss + layer_loss
                stats["loss/layer_loss"] = share.logged(layer_loss)
        stats["loss/train_loss"] = share.logged(loss)
        # What stands in teaches nothing: its gradients are 0 wherever those of others are numbers.
        return loss if share.mine else 0.0 * loss, stats | clock.seconds

    def _scores(
        self, batch: Batch, hits: Hits, layers: tuple[int, ...]
    ) -> tuple[Float[Tensor, "query passage"], Float[Tensor, "layer query passage"] | None]:
        """Dot products over sqrt(dim), with gradient; a passage hit twice is embedded once."""
        assert self.retriever is not None and self.retriever_tokens is not None
        rows, places = np.unique(hits.rows.numpy(), return_inverse=True)
        passage_tokens = self.retriever_tokens.passage_inputs(rows)
        index = torch.from_numpy(places).view(hits.rows.shape)
        if layers:
            return layer_scores(self.retriever, batch.query_tokens, passage_tokens, index, layers)
        queries = self.retriever.embed_queries(batch.query_tokens)
        passages = self.retriever.embed_passages(passage_tokens)
        found = passages.index_select(0, index.view(-1).to(passages.device)).view(*index.shape, -1)
        scores = torch.einsum("qd,qkd->qk", queries.float(), found.float())
        return scores / self.retriever.embedding_dim**0.5, None

    @torch.no_grad()
    def _states_to_score(
        self,
        lesson: RetrieverLesson,
        inputs: list[list[TokenIds]],
        beside: Sequence[int],
        encoded: EncodedPassages,
    ) -> EncodedPassages:
        """States the signal is computed from: shared with the training pass, or encoded anew.

        Shared, only the passages beyond n_context are encoded here. Otherwise all of them are, in
        evaluation mode, as Atlas does.
        """
        if lesson.reuse_encodings:
            known = encoded.detached().first(lesson.passages)
            rest = [passages[self.n_context : lesson.passages] for passages in inputs]
            if not any(rest):
                self.reader.encode([])  # Other ranks may have some, and wait for this one.
                return known
            more = encode_passages(self.reader, self.compressor, rest, beside)
            return known.followed_by(more.passages)
        every = [passages[: lesson.passages] for passages in inputs]
        with evaluation_mode(self.reader), evaluation_mode(self.compressor or self.reader):
            return encode_passages(self.reader, self.compressor, every, beside).passages

    @torch.no_grad()
    def _signal(
        self, lesson: RetrieverLesson, states: EncodedPassages, targets: Targets
    ) -> tuple[Tensor, Stats]:
        with evaluation_mode(self.reader):
            signal = reader_signal(lesson, self.reader, states, targets)
            return signal, _attention_stats(lesson, self.reader, states, targets, signal)

    def _layer_attention(
        self, states: EncodedPassages, targets: Targets
    ) -> Float[Tensor, "layer query passage"]:
        with evaluation_mode(self.reader):
            return layer_attention_scores(_with_cross_attention(self.reader), states, targets)


def reader_signal(
    lesson: RetrieverLesson, reader: Reader, states: EncodedPassages, targets: Targets
) -> Tensor:
    """Ask the reader what its loss needs to know about each passage; no gradient."""
    loss = RETRIEVER_LOSSES[lesson.mode]
    if loss.signal == "log_likelihoods":
        return passage_log_likelihoods(reader, states, targets)
    if loss.signal == "attention_scores":
        return passage_attention_scores(_with_cross_attention(reader), states, targets)
    if loss.signal == "losses_without":
        return leave_one_out_nll(reader, states, targets)
    temperature = lesson.reader_temperature if loss.has_vocabulary_temperature else 1.0
    return passage_token_log_probs(reader, states, targets, temperature=temperature)


def _attention_stats(
    lesson: RetrieverLesson,
    reader: Reader,
    states: EncodedPassages,
    targets: Targets,
    signal: Tensor,
) -> Stats:
    if not lesson.log_attention:
        return {}
    context = states.fused()
    with record_cross_attention(_with_cross_attention(reader).model) as recorded:
        reader.decode(context, targets.decoder_input_ids)
    statistics = attention_statistics(
        recorded, context.mask, context.passage, targets.mask, passages=states.lengths.shape[1]
    )
    helpful = per_passage(signal)
    return {f"corr/{name}": correlation(helpful, value) for name, value in statistics.items()}


def _with_cross_attention(reader: Reader) -> FusionReader:
    assert isinstance(reader, FusionReader), "options that need cross-attention were refused"
    return reader


def per_passage(signal: Tensor) -> Float[Tensor, "query passage"]:
    """The signal; emdr's is per token, and its sum the log-likelihood of the whole target."""
    return signal if signal.dim() == 2 else signal.sum(dim=2)


def correlation(
    first: Float[Tensor, "query passage"], second: Float[Tensor, "query passage"]
) -> Float[Tensor, ""]:
    """Pearson correlation over all (query, passage) cells; 0 where one of them is constant."""
    pair = torch.stack([first.flatten().float(), second.flatten().float()])
    centred = pair - pair.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1).prod()
    return torch.where(norms > 0, centred.prod(dim=0).sum() / norms.clamp_min(1e-30), 0.0)
