"""`--teacher`: what a dense run has beside its student, in the loop that trains everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from gazetteer import build
from gazetteer.build_retriever import PADDED_TOKENS, asked_of_teacher
from gazetteer.data.sampling import Draw
from gazetteer.dense.batches import DenseBatches
from gazetteer.dense.line_store import LineStore
from gazetteer.distributed.agreement import build_alike, raise_together
from gazetteer.distributed.replicas import replicate
from gazetteer.errors import DataError
from gazetteer.ir.lines import ON_BAD
from gazetteer.ir.training_formats import read_training_lines
from gazetteer.lead.dual import DualLayers
from gazetteer.lead.step import LeadBatch, LeadLesson, LeadStep, StudentAndTeacher
from gazetteer.lead.teachers import (
    LayeredModel,
    open_cross_encoder,
    open_late_interaction,
    save_layered,
)
from gazetteer.options import Options
from gazetteer.reader.loading import DTYPES
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, load_retriever, save_retriever
from gazetteer.training.state import Position

TEACHER = "teacher"
"""Name of a teacher that learns, for the state and the log; and its folder in a checkpoint."""


@dataclass(frozen=True, slots=True)
class TokenisedModel:
    """A model whose layers can be scored, and its tokenizer."""

    model: LayeredModel
    tokenizer: PreTrainedTokenizerBase

    def save(self, folder: Path) -> None:
        """Write it so that `open_model` reads it."""
        if isinstance(self.model, DualLayers):
            save_retriever(self.model.retriever, self.tokenizer, folder)
        else:
            save_layered(self.model, self.tokenizer, folder)


class LeadBatches:
    """The batches of student and teacher: the same passages of the same lines.

    Args:
        student: in its own tokens.
        teacher: in the teacher's.
    """

    def __init__(self, student: DenseBatches, teacher: DenseBatches) -> None:
        self.student = student
        self.teacher = teacher

    @property
    def count(self) -> int:
        """Number of lines."""
        return self.student.count

    @property
    def lines(self) -> LineStore:
        """The lines, in the student's tokens."""
        return self.student.lines

    def build(self, draws: Sequence[Draw]) -> LeadBatch:
        """One batch; what is picked depends on nothing but the seed, the epoch and the line."""
        return LeadBatch(self.student.build(draws), self.teacher.build(draws))

    def use_negatives(self, rows: np.ndarray | None) -> None:
        """As `DenseBatches.use_negatives`, for both."""
        self.student.use_negatives(rows)
        self.teacher.use_negatives(rows)


def open_teacher(options: Options, ranks: Ranks, resumed: Path | None) -> TokenisedModel:
    """The model of `--teacher`; that of the checkpoint, if it has learned already.

    Collective: every rank must call this.

    Raises:
        GazetteerError: it cannot be loaded; the same on every rank.
    """
    assert options.lead.teacher is not None
    name = options.lead.teacher
    if resumed is not None and options.lead.train_teacher and (resumed / TEACHER).is_dir():
        name = str(resumed / TEACHER)
    return build_alike(lambda: open_model(options, ranks, options.lead.teacher_kind, name), ranks)


def open_model(options: Options, ranks: Ranks, kind: str, name: str) -> TokenisedModel:
    """A model of any kind, on this rank's device.

    Raises:
        GazetteerError: it cannot be loaded.
    """
    found = read_model(options, ranks, kind, name)
    return TokenisedModel(found.model.to(ranks.device), found.tokenizer)


def read_model(options: Options, ranks: Ranks, kind: str, name: str) -> TokenisedModel:
    """The same on the CPU, ready for this rank's device.

    Raises:
        GazetteerError: it cannot be loaded.
    """
    common: dict[str, Any] = {
        "dropout": options.optimisation.dropout,
        "attention": "eager" if ranks.device.type == "cpu" else "sdpa",
    }
    limit = PADDED_TOKENS[ranks.device.type]
    batch = EmbeddingBatch(options.data.per_gpu_embedder_batch_size, limit)
    # As for the retriever: fp16 leaves it in fp32.
    dtype = DTYPES["bf16" if options.optimisation.precision == "bf16" else "fp32"]
    model: LayeredModel
    if kind == "colbert":
        length = options.dense.q_max_len
        model, tokenizer = open_late_interaction(name, query_length=length, **common)
    elif kind == "cross":
        model, tokenizer = open_cross_encoder(name, max_padded_tokens=limit, **common)
    else:
        retriever, tokenizer = _open_dual(options, name, dtype, batch, common)
        model = DualLayers(retriever)
    return TokenisedModel(model.to(dtype), tokenizer)


def _open_dual(
    options: Options, name: str, dtype: torch.dtype, batch: EmbeddingBatch, common: dict[str, Any]
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    asked = asked_of_teacher(options, name)
    return load_retriever(
        name,
        pooling=asked.pooling,
        normalize=asked.normalize,
        encoder_only=asked.encoder_only,
        dtype=dtype,
        batch=batch,
        **common,
    )


def require_texts(
    options: Options,
    ranks: Ranks,
    tokenizer: PreTrainedTokenizerBase,
    teachers: PreTrainedTokenizerBase,
) -> None:
    """Training lines that hold token ids are of no use to a teacher that knows other tokens.

    Collective: every rank must call this.

    Raises:
        DataError: there are such lines; looked for in the first line of each file.
    """
    problem, on_bad = None, ON_BAD[options.data.on_bad_line]
    if tokenizer.get_vocab() != teachers.get_vocab():
        for path in map(Path, options.data.train_data):
            lines = read_training_lines(path, flag="--train_data", on_bad=on_bad)
            line = next(iter(lines), None)
            passages = (*line.positives, *line.negatives) if line else ()
            if line and (line.query_tokens or any(each.tokens for each in passages)):
                problem = problem or DataError(
                    f"{path}: holds token ids, and the teacher's tokenizer is another one than the"
                    " student's: give texts (build_train.py --form reference) (--train_data)"
                )
    raise_together(problem, ranks)


def build_lead_step(
    options: Options,
    ranks: Ranks,
    retriever: DualEncoder,
    teacher: LayeredModel,
    position: Position,
) -> nn.Module:
    """LEAD's step, with both models replicated.

    Collective: every rank must call this.

    Raises:
        OptionError: a model has fewer layers than are to be compared.
    """
    lead, dense = options.lead, options.dense
    student = DualLayers(retriever)
    models = StudentAndTeacher(student, teacher, teacher_learns=lead.train_teacher)
    return LeadStep(
        replicate(models.to(ranks.device), ranks),
        LeadLesson(
            temperature=dense.dense_temperature,
            teacher_temperature=dense.teacher_temperature,
            layer_temperature=lead.layer_temperature if lead.layer_score_reweight else None,
            teacher_learns=lead.train_teacher,
        ),
        build.build_chooser(
            options, "distill_layer_num", lead.distill_layer_num, student.layers, teacher.layers,
        ),
        passages=dense.train_n_passages,
        reads_pairs=teacher.reads_pairs,
        steps_done=lambda: position.micro_batches,
    )  # fmt: skip
