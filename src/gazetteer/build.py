"""Options -> objects. The only place below the loops that reads options.

Each function builds one stage and hands it plain values; `build_run` puts them together in the
order of `step.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.build_compressor import build_compressor
from gazetteer.build_reader import (
    build_reader,
    build_targets,
    passage_format,
    passage_tokenizer,
    require_room,
)
from gazetteer.build_retriever import build_retriever
from gazetteer.build_search import Retrieving, build_passage_tokens, retriever_max_tokens
from gazetteer.compressor import Compressor, CompressorLesson, InputsOf
from gazetteer.convert.atlas_checkpoint import AtlasCheckpoint, atlas_file, open_atlas_checkpoint
from gazetteer.convert.description import describe_atlas
from gazetteer.convert.weights import reader_fill, reader_name, retriever_fills
from gazetteer.data.passages import PassageStore
from gazetteer.data.queries import QueryTokenizer
from gazetteer.data.targets import TargetTokenizer
from gazetteer.data.templates import PassageTemplate
from gazetteer.distributed.agreement import build_alike
from gazetteer.errors import OptionError
from gazetteer.files import require_intact
from gazetteer.lead.layers import LayerChooser
from gazetteer.lead.reader_lesson import ReaderLayers
from gazetteer.lead.states import layer_count
from gazetteer.losses import RETRIEVER_LOSSES
from gazetteer.options import Options
from gazetteer.reader import CausalReader, GenerationSettings, Reader
from gazetteer.reader.loading import DTYPES, load_reader_tokenizer
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder
from gazetteer.step import GivenPassages, PassageSource, ReaderInputs, Retrieval, RetrieverLesson
from gazetteer.task_names import DENSE
from gazetteer.tasks import TASKS
from gazetteer.tasks.base import SENTINEL, Task
from gazetteer.tasks.batches import BatchBuilder, Lines

logger = logging.getLogger(__name__)

READER_FOLDER, RETRIEVER_FOLDER = "reader", "retriever"


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models and their tokenizers; None where a run does without.

    Attributes:
        retriever: None with the book closed or with given passages.
        reader: None with `--retrieve_only`.
        compressor: None where the reader reads whole passages.
    """

    retriever: DualEncoder | None
    retriever_tokenizer: PreTrainedTokenizerBase | None
    reader: Reader | None
    reader_tokenizer: PreTrainedTokenizerBase | None
    compressor: Compressor | None = None
    compressor_tokenizer: PreTrainedTokenizerBase | None = None


def model_folder(options: Options) -> Path | None:
    """The checkpoint `--model_path` names, ours with its files checked; None for "none".

    Raises:
        CheckpointError: it is no checkpoint of ours or Atlas's, or it is damaged.
    """
    if options.experiment.model_path == "none":
        return None
    folder = Path(options.experiment.model_path).resolve()
    if atlas_file(folder) is None:
        require_intact(folder)
    return folder


def build_models(options: Options, ranks: Ranks, checkpoint: Path | None) -> Models:
    """Load the models: from a checkpoint of ours if there is one, else from their own names.

    Collective: every rank must call this.

    Raises:
        GazetteerError: a model cannot be loaded, on this rank or another; the same on every rank.
    """
    return build_alike(lambda: _load_models(options, ranks, checkpoint), ranks)


def _load_models(options: Options, ranks: Ranks, checkpoint: Path | None) -> Models:
    atlas = open_atlas(options, checkpoint)
    retrieves = not options.data.use_file_passages
    retriever, retriever_tokenizer = None, None
    if retrieves:
        source = checkpoint / RETRIEVER_FOLDER if checkpoint else None
        retriever, retriever_tokenizer = _retriever(options, ranks, source, atlas)
    reader, reader_tokenizer = None, None
    compressor, compressor_tokenizer = None, None
    task = options.task.task
    if task != DENSE and not options.retriever.retrieve_only:
        source = checkpoint / READER_FOLDER if checkpoint else None
        reader, reader_tokenizer = _reader(options, ranks, source, atlas)
        built = build_compressor(options, ranks, checkpoint, reader, reader_tokenizer)
        compressor, compressor_tokenizer = built or (None, None)
    elif task in TASKS and TASKS[task].tokenizes:
        source = checkpoint / READER_FOLDER if checkpoint else None
        reader_tokenizer = load_reader_tokenizer(_reader_name(options, source, atlas))
    return Models(
        retriever=retriever,
        retriever_tokenizer=retriever_tokenizer,
        reader=reader,
        reader_tokenizer=reader_tokenizer,
        compressor=compressor,
        compressor_tokenizer=compressor_tokenizer,
    )


def open_atlas(options: Options, checkpoint: Path | None) -> AtlasCheckpoint | None:
    """Atlas's checkpoint in a folder, and in the log what is taken from it; None if it is ours.

    Raises:
        CheckpointError: it is damaged.
    """
    path = atlas_file(checkpoint) if checkpoint else None
    if path is None:
        return None
    atlas = open_atlas_checkpoint(path)
    for line in describe_atlas(atlas, options):
        logger.info("%s", line)
    return atlas


def _reader(
    options: Options, ranks: Ranks, folder: Path | None, atlas: AtlasCheckpoint | None
) -> tuple[Reader, PreTrainedTokenizerBase]:
    name = _reader_name(options, folder, atlas)
    return build_reader(options, ranks, name, reader_fill(atlas) if atlas else None)


def _reader_name(options: Options, folder: Path | None, atlas: AtlasCheckpoint | None) -> str:
    name = str(folder) if folder else options.reader.reader_model_type
    if atlas is not None:
        name = reader_name(atlas, options.reader.reader_model_type)
    if name is None:
        raise OptionError(
            "--reader_model_type is needed where there is no checkpoint to start from"
        )
    return name


def _retriever(
    options: Options, ranks: Ranks, folder: Path | None, atlas: AtlasCheckpoint | None
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    name = str(folder) if folder and folder.is_dir() else options.retriever.retriever_model_path
    fills = retriever_fills(atlas) if atlas and atlas.has_retriever else None
    return build_retriever(options, ranks, name, fills)


def build_source(models: Models, retrieving: Retrieving | None) -> PassageSource:
    """Where passages come from: the index, or the examples themselves."""
    if retrieving is None:
        return GivenPassages()
    assert models.retriever is not None
    return Retrieval(models.retriever, retrieving.selector)


def build_reader_inputs(
    options: Options, ranks: Ranks, models: Models, passages: PassageStore | None
) -> ReaderInputs:
    """What is read of passages: prompt and passage, or with the book closed the prompt alone.

    Collective: every rank must call this.

    By the compressor where there is one: in its tokens and its format.
    """
    if models.compressor is not None and passages is not None:
        return _compressor_inputs(options, ranks, models, passages)
    return whole_inputs(options, ranks, models, passages)


def _compressor_inputs(
    options: Options, ranks: Ranks, models: Models, passages: PassageStore
) -> ReaderInputs:
    assert models.compressor is not None and models.compressor_tokenizer is not None
    settings, tokenizer = models.compressor.settings, models.compressor_tokenizer
    tokens = build_passage_tokens(
        options,
        ranks,
        passages,
        tokenizer,
        PassageTemplate.parse(settings.format),
        settings.max_tokens,
        settings.max_passage_tokens,
    )
    alone = QueryTokenizer(tokenizer, max_tokens=settings.max_tokens)
    knows = SENTINEL in tokenizer.get_vocab() and not isinstance(models.reader, CausalReader)
    return ReaderInputs(tokens, alone, has_sentinels=knows)


def whole_inputs(
    options: Options, ranks: Ranks, models: Models, passages: PassageStore | None
) -> ReaderInputs:
    """What the reader itself is given of passages, whether it reads them or a compressor does.

    A decoder-only reader has the prompt elsewhere, after the passages.

    Collective: every rank must call this.
    """
    assert models.reader is not None and models.reader_tokenizer is not None
    is_causal = isinstance(models.reader, CausalReader)
    tokenizer = passage_tokenizer(models.reader, models.reader_tokenizer)
    alone = None
    if not is_causal:
        alone = QueryTokenizer(tokenizer, max_tokens=options.reader.text_maxlength)
    if options.data.closed_book or passages is None:
        return ReaderInputs(None, alone)
    require_room(options, models.reader)
    tokens = build_passage_tokens(
        options,
        ranks,
        passages,
        tokenizer,
        PassageTemplate.parse(passage_format(options, models.reader)),
        options.reader.text_maxlength,
    )
    return ReaderInputs(tokens, alone, has_sentinels=not is_causal)


def build_compressor_lesson(
    options: Options, ranks: Ranks, models: Models, passages: PassageStore | None
) -> CompressorLesson | None:
    """What teaches the compressor beside the reader's loss; None without a compressor.

    Collective: every rank must call this.
    """
    if models.compressor is None:
        return None
    distils = options.compressor.distill_kl_weight > 0
    whole = whole_inputs(options, ranks, models, passages).of if distils else None
    return compressor_lesson(options, whole)


def compressor_lesson(options: Options, whole: InputsOf | None) -> CompressorLesson:
    """The lesson itself; `whole` is what its teacher reads."""
    asked = options.compressor
    return CompressorLesson(
        distill_weight=asked.distill_kl_weight,
        whole_inputs=whole,
        rerank_target=asked.rerank_target,
        rerank_weight=asked.rerank_weight,
        reader_temperature=options.retriever.temperature_gold,
    )


def build_chooser(
    options: Options, flag: str, count: int, student_layers: int, teacher_layers: int
) -> LayerChooser:
    """Which layers of teacher and student are compared.

    Raises:
        OptionError: a model has fewer layers than `flag` says.
    """
    fewest = min(student_layers, teacher_layers)
    if count > fewest:
        raise OptionError(f"--{flag} ({count}) must be at most {fewest}, the layers of a model")
    return LayerChooser(
        selection=options.lead.layer_selection,
        count=count,
        student_layers=student_layers,
        teacher_layers=teacher_layers,
        resample_steps=options.lead.layer_resample_steps,
        seed=options.experiment.seed,
    )


def build_reader_layers(
    options: Options, models: Models, steps_done: Callable[[], int]
) -> ReaderLayers | None:
    """How the reader's decoder layers teach the retriever's; None when they do not.

    Raises:
        OptionError: a model has fewer layers than are to be compared.
    """
    lead = options.lead
    if not lead.reader_layer_num or models.retriever is None or models.reader is None:
        return None
    return ReaderLayers(
        chooser=build_chooser(
            options,
            "reader_layer_num",
            lead.reader_layer_num,
            layer_count(models.retriever.query_tower.model),
            layer_count(models.reader.model),
        ),
        layer_temperature=lead.layer_temperature if lead.layer_score_reweight else None,
        steps_done=steps_done,
    )


def build_lesson(options: Options, layers: ReaderLayers | None) -> RetrieverLesson | None:
    """How the retriever learns; None when it does not."""
    if not options.retriever.train_retriever:
        return None
    assert options.retriever.gold_score_mode in RETRIEVER_LOSSES
    return RetrieverLesson(
        mode=options.retriever.gold_score_mode,
        passages=options.retriever.retriever_n_context,
        retriever_temperature=options.retriever.temperature_score,
        reader_temperature=options.retriever.temperature_gold,
        # Without dropout the two ways are equal, and one is cheaper.
        reuse_encodings=options.retriever.reuse_reader_encodings
        or options.optimisation.dropout == 0,
        log_attention=options.retriever.compute_crossattention_stats,
        layers=layers,
    )


def build_batches(
    options: Options,
    ranks: Ranks,
    models: Models,
    files: Lines,
    task: Task,
    *,
    is_training: bool,
) -> BatchBuilder:
    """From lines of `files` to batches."""
    task.use_tokenizer(models.reader_tokenizer)
    return BatchBuilder(
        files=files,
        task=task,
        query_tokenizer=QueryTokenizer(
            models.retriever_tokenizer, max_tokens=retriever_max_tokens(options)
        )
        if models.retriever_tokenizer
        else None,
        target_tokenizer=build_target_tokenizer(options, models),
        seed=options.experiment.seed,
        device=ranks.device,
        orders=task.orders(is_training=is_training),
    )


def build_target_tokenizer(options: Options, models: Models) -> TargetTokenizer | None:
    """What turns targets into labels; None where nothing is read."""
    if models.reader is None or models.reader_tokenizer is None:
        return None
    return build_targets(options, models.reader, models.reader_tokenizer)


def build_generation(options: Options) -> GenerationSettings:
    """The four `--generation_*` flags."""
    return GenerationSettings(
        max_length=options.generation.generation_max_length,
        min_length=options.generation.generation_min_length,
        num_beams=options.generation.generation_num_beams,
        length_penalty=options.generation.generation_length_penalty,
    )


def reader_dtype(options: Options) -> torch.dtype:
    """Precision of the reader's weights."""
    return DTYPES[options.optimisation.precision]
