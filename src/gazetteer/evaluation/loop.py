"""Evaluate a data set: retrieve, read, score, and write what was answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.compressor import Compressed, Compressor
from gazetteer.data.passages import PassageStore
from gazetteer.data.sampling import Draw, evaluation_batches
from gazetteer.evaluation.closed_answers import ChoiceTally, ClosedAnswers, merger
from gazetteer.evaluation.predictions import Answer, RecordMerger, ResultsFile, result_record
from gazetteer.evaluation.totals import COMPRESSION_RATE, Measured, Totals
from gazetteer.losses import reader_loss
from gazetteer.metrics.ranking import first_relevant_position, has_answer
from gazetteer.modes import evaluation_mode
from gazetteer.progress import progress
from gazetteer.reader import GenerationSettings, Reader, decode_answers, generate
from gazetteer.records import Batch, Example, Hits, PassageRecord, Ranks
from gazetteer.stats import Stopwatch
from gazetteer.step import PassageSource, ReaderInputs, encode_passages
from gazetteer.tasks.base import Task
from gazetteer.tasks.batches import BatchBuilder

RECALL_CUTOFFS = (1, 5, 20, 100)
RATE_TOLERANCE = 0.1
"""Share by which the achieved rate may miss the one asked for without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingStage:
    """What turns hits into answers; absent with `--retrieve_only`.

    Attributes:
        reader: answers from passages.
        tokenizer: the reader's.
        inputs: what is read of each hit.
        generation: how answers are decoded.
        closed: what else is asked where the answers are a closed set; None for nothing.
        compressor: makes few vectors of each passage; None: the reader encodes them whole.
        candidates: passages of which the compressor keeps the most relevant; 0: it keeps all.
    """

    reader: Reader
    tokenizer: PreTrainedTokenizerBase
    inputs: ReaderInputs
    generation: GenerationSettings
    closed: ClosedAnswers | None = None
    compressor: Compressor | None = None
    candidates: int = 0

    def encode(self, batch: Batch, hits: Hits, n_context: int) -> tuple[Compressed, Hits]:
        """What the reader decodes over, in evaluation mode, and the hits behind it, in order."""
        inputs = self.inputs.of(batch.queries, hits)
        beside = self.inputs.beside(batch.queries) if self.compressor else ()
        with evaluation_mode(self.reader), evaluation_mode(self.compressor or self.reader):
            encoded = encode_passages(self.reader, self.compressor, inputs, beside)
        if not self.candidates:
            return encoded, hits
        best, order = encoded.best_first(n_context)
        return best, hits.taken(torch.from_numpy(order))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Everything an evaluation needs; used by `evaluate.py` and by the training loop.

    Attributes:
        source: where passages come from.
        reading: None to evaluate retrieval alone.
        task: judges answers.
        n_context: passages per query.
        batch_size: examples per rank.
        ranks: this process among its peers.
        show_progress: draw a bar on this rank.
        write_passages: put passages into result records.
    """

    source: PassageSource
    reading: ReadingStage | None
    task: Task
    n_context: int
    batch_size: int
    ranks: Ranks
    show_progress: bool
    write_passages: bool = True

    @torch.no_grad()
    def evaluate(
        self, batches: BatchBuilder, passages: PassageStore | None, results: Path | None, name: str
    ) -> Measured:
        """Evaluate every example once.

        Collective: every rank must call this.

        Args:
            batches: of one data file.
            passages: text of the hits; None with the book closed.
            results: file to write records to, or None.
            name: shown beside the progress bar.

        Returns:
            Metrics over all examples of all ranks, the same on every rank.
        """
        totals, tally = Totals(len(batches.orders)), self._tally(batches)
        plan = evaluation_batches(
            batches.count,
            batch_size=self.batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        writer = self._writer(results, batches) if results is not None else None
        with (
            progress(batches.count, name, "example", enabled=self.show_progress) as bar,
            writer or nullcontext(),
        ):
            for indices in plan:
                batch = batches.build([Draw(index, 0) for index in indices])
                found, answers = self._answer(batch, passages, totals)
                if tally is not None:
                    for example, answer in zip(batch.examples, answers or (), strict=True):
                        tally.add(example, answer.fields)
                if writer is not None:
                    shown = found if self.write_passages else [None] * len(found)
                    writer.write(batch.examples, _records(batch.examples, shown, answers))
                bar.update(min(self.batch_size * self.ranks.world_size, bar.total - bar.n))
        for line, score in tally.scores(self.ranks) if tally is not None else ():
            totals.add_unit(score, line)
        return totals.measured(self._metric_names())

    def remarks(self, measured: Measured) -> Iterator[str]:
        """What the log should say beside the metrics."""
        compressor = self.reading.compressor if self.reading else None
        asked = compressor.settings.asked_rate if compressor else None
        achieved = measured.averages.get(COMPRESSION_RATE)
        if asked and achieved and abs(achieved - asked) > RATE_TOLERANCE * asked:
            yield (
                f"compression_rate is {achieved:.1f}, --compression_rate asked for {asked:g}:"
                " passages are shorter, or were cut, and each has at least one vector"
            )

    def _tally(self, batches: BatchBuilder) -> ChoiceTally | None:
        if self.reading is None or not self.task.debiases:
            return None
        return ChoiceTally(self.task.candidates, batches.orders)

    def _writer(self, path: Path, batches: BatchBuilder) -> ResultsFile:
        merging = None
        if self.reading is not None and self.task.debiases:
            merge = merger(self.task.candidates, batches.orders)
            merging = RecordMerger(len(batches.orders), merge)
        return ResultsFile(path, self.ranks, merging)

    def _answer(
        self, batch: Batch, store: PassageStore | None, totals: Totals
    ) -> tuple[list[list[PassageRecord]], list[Answer] | None]:
        reading = self.reading
        wanted = max(self.n_context, reading.candidates if reading else 0)
        hits = self.source.hits(batch, wanted, Stopwatch())
        encoded = None
        if reading is not None and batch.examples:
            encoded, hits = reading.encode(batch, hits, self.n_context)
        found = _passages(hits, store) if store is not None else [[] for _ in batch.examples]
        if reading is None:
            for example, passages in zip(batch.examples, found, strict=True):
                # No passage holds "true" or "B": such answers say nothing about retrieval.
                wanted = () if self.task.candidates else example.answers
                totals.add(_retrieval_metrics(example, wanted, passages, self.n_context), example)
            return found, None
        if encoded is None:
            return found, []
        for example, rate in zip(batch.examples, encoded.rates, strict=False):
            totals.add({COMPRESSION_RATE: rate}, example)
        return found, self._read(reading, batch, encoded, totals)

    def _read(
        self, reading: ReadingStage, batch: Batch, encoded: Compressed, totals: Totals
    ) -> list[Answer]:
        """One encoder pass serves the loss and the generated answers."""
        targets = batch.targets
        assert targets is not None, "reading needs targets"
        with evaluation_mode(reading.reader):
            context = encoded.passages.fused()
            logits = reading.reader.decode(context, targets.decoder_input_ids)
            judged = [i for i, example in enumerate(batch.examples) if example.answers]
            if judged:
                loss = reader_loss(logits[judged], targets.labels[judged])
                totals.add_unit({"eval_loss": float(loss)}, batch.examples[0].example_id)
            ids = generate(reading.reader, context, reading.generation, targets.prompts)
            closed = reading.closed
            fields = closed.ask(reading.reader, context, logits, batch) if closed else repeat({})
        texts = decode_answers(reading.tokenizer, ids)
        answers = [Answer(text, more) for text, more in zip(texts, fields, strict=False)]
        for example, answer in zip(batch.examples, answers, strict=True):
            if example.answers:
                totals.add(self.task.score(answer.text, example.answers), example)
                ranked = closed.score(answer.fields, example.answers) if closed else {}
                totals.add(ranked, example)
        return answers

    def _metric_names(self) -> tuple[str, ...]:
        if self.reading is None:
            return _retrieval_names(self.n_context)
        closed = self.reading.closed
        ranked = ("ranking_accuracy",) if closed and closed.compares else ()
        rate = (COMPRESSION_RATE,) if self.reading.compressor else ()
        return (*self.task.metrics, *ranked, *rate)


def _passages(hits: Hits, store: PassageStore) -> list[list[PassageRecord]]:
    rows = hits.rows.numpy()
    records = iter(store.records(rows[rows >= 0]))
    return [list(islice(records, int(found))) for found in (rows >= 0).sum(axis=1)]


def _records(
    examples: Sequence[Example],
    passages: Iterable[list[PassageRecord] | None],
    answers: Sequence[Answer] | None,
) -> list[dict]:
    given: Sequence[Answer | None] = [None] * len(examples) if answers is None else answers
    return [
        result_record(example, found, answer)
        for example, found, answer in zip(examples, passages, given, strict=True)
    ]


def _cutoffs(n_context: int) -> tuple[int, ...]:
    return tuple(k for k in RECALL_CUTOFFS if k <= n_context)


def _retrieval_names(n_context: int) -> tuple[str, ...]:
    kinds = ("answer_recall", "gold_recall")
    return (*(f"{kind}@{k}" for kind in kinds for k in _cutoffs(n_context)), "gold_mrr")


def _retrieval_metrics(
    example: Example,
    answers: Sequence[str],
    passages: Sequence[PassageRecord],
    n_context: int,
) -> dict[str, float]:
    """Answer recall where there are answers; recall and MRR by id where the gold one is known."""
    metrics: dict[str, float] = {}
    if answers:
        position = first_relevant_position([has_answer(p["text"], answers) for p in passages])
        metrics |= _recalls("answer_recall", position, n_context)
    if example.gold_passage_id is not None:
        position = first_relevant_position([p["id"] == example.gold_passage_id for p in passages])
        metrics |= _recalls("gold_recall", position, n_context)
        metrics["gold_mrr"] = 0.0 if position is None else 1.0 / position
    return metrics


def _recalls(kind: str, position: int | None, n_context: int) -> dict[str, float]:
    return {
        f"{kind}@{k}": float(position is not None and position <= k) for k in _cutoffs(n_context)
    }
