"""Options -> the reader, and the words it is given."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.adapters import (
    ALL_LINEAR,
    LoraSettings,
    add_adapters,
    are_as_asked,
    has_adapters,
    set_adapter_dropout,
    train_adapters_only,
    without_adapters,
)
from gazetteer.build_retriever import PADDED_TOKENS
from gazetteer.data.targets import ContinuationTokenizer, TargetTokenizer
from gazetteer.errors import OptionError
from gazetteer.flags import all_flags
from gazetteer.losses import RETRIEVER_LOSSES
from gazetteer.options import Options
from gazetteer.reader import CausalReader, Reader, load_reader
from gazetteer.reader.causal_loading import without_special_tokens
from gazetteer.reader.fusion import T5Model
from gazetteer.reader.loading import enable_gradient_checkpointing, is_decoder_only
from gazetteer.reader.words import ReaderWords
from gazetteer.records import Ranks

logger = logging.getLogger(__name__)


def build_reader(
    options: Options,
    ranks: Ranks,
    name: str,
    fill: Callable[[T5Model, torch.dtype], None] | None = None,
) -> tuple[Reader, PreTrainedTokenizerBase]:
    """The reader under a name, ready to learn as flags say, on this rank's device.

    Args:
        options: of the run.
        ranks: this process among its peers.
        name: of the hub, a folder, or a GGUF file.
        fill: gives a T5 its weights; None reads those under the name.

    Raises:
        CheckpointError, OptionError: it cannot be loaded, or cannot do what flags say.
    """
    require_possible(options, name)
    reader, tokenizer = load_reader(
        name,
        dropout=options.optimisation.dropout,
        precision=options.optimisation.precision,
        max_padded_tokens=PADDED_TOKENS[ranks.device.type],
        attention="eager" if ranks.device.type == "cpu" else "sdpa",
        fill=fill,
        words=words_of(options),
    )
    if options.data.train_data:
        adapt_reader(options, reader)
    if options.optimisation.use_gradient_checkpoint_reader:
        enable_gradient_checkpointing(reader.model)
    return reader.to(ranks.device), tokenizer


def adapt_reader(options: Options, reader: Reader) -> None:
    """Let a reader that is trained learn by adapters, or by all its weights, as flags say.

    Raises:
        OptionError: peft is not installed, or the reader has no layers as named.
    """
    lora, model = _lora(options, reader), reader.model
    if lora is not None and are_as_asked(model, lora):
        train_adapters_only(model)
        set_adapter_dropout(model, lora.dropout)
        return
    if has_adapters(model):
        logger.info("the reader's adapters, made with other settings, become part of its weights")
        reader.model = model = without_adapters(model)
    if lora is not None:
        add_adapters(model, lora)


def _lora(options: Options, reader: Reader) -> LoraSettings | None:
    asked = options.causal
    if not asked.reader_lora_rank:
        return None
    rank, alpha = asked.reader_lora_rank, asked.reader_lora_alpha
    return LoraSettings(
        rank=rank,
        alpha=2.0 * rank if alpha is None else alpha,
        modules=tuple(asked.reader_lora_modules) or (ALL_LINEAR,),
        dropout=asked.reader_lora_dropout,
        seed=options.experiment.seed,
        task_type="CAUSAL_LM" if isinstance(reader, CausalReader) else "SEQ_2_SEQ_LM",
        flags="reader_lora",
    )


def require_possible(options: Options, name: str) -> None:
    """Refuse what a decoder-only reader cannot do, before its weights are read.

    Raises:
        CheckpointError, OptionError: there is no such reader, or it cannot do what flags say.
    """
    problems = list(_needs_of_t5(options))
    if problems and is_decoder_only(name):
        raise OptionError(
            "\n".join(f"{what}; the reader '{name}' is decoder-only" for what in problems)
        )


def require_room(options: Options, reader: Reader) -> None:
    """Refuse more passages than a decoder-only reader has places for; of T5 there is no limit.

    Raises:
        OptionError: naming the flags.
    """
    limit = getattr(reader.model.config, "max_position_embeddings", None)
    if not isinstance(reader, CausalReader) or limit is None:
        return
    passages, length = options.reader.n_context, options.reader.text_maxlength
    others = len(reader.prompt.prefix) + options.generation.generation_max_length
    if passages * length + others > limit:
        raise OptionError(
            f"--n_context ({passages}) x --text_maxlength ({length}) must leave room in the"
            f" {limit} places of the reader, of which prefix and answer take {others}"
        )


def _needs_of_t5(options: Options) -> Iterator[str]:
    retriever, lead = options.retriever, options.lead
    if retriever.train_retriever:
        mode = retriever.gold_score_mode
        if mode in RETRIEVER_LOSSES and RETRIEVER_LOSSES[mode].signal == "attention_scores":
            yield f"--gold_score_mode ({mode}) needs a reader with cross-attention"
        if retriever.compute_crossattention_stats:
            yield "--compute_crossattention_stats needs a reader with cross-attention"
        if lead.reader_layer_num:
            number = lead.reader_layer_num
            yield f"--reader_layer_num ({number}) needs a reader with cross-attention"
    if options.task.task == "mlm":
        yield "--task mlm needs a reader that knows T5's sentinels"


def words_of(options: Options) -> ReaderWords:
    """The words around passages that flags give a decoder-only reader.

    The default of `--encoder_format` is for T5, and a closed book implies another.
    """
    given = options.reader.encoder_format
    is_default = given == all_flags(type(options))["encoder_format"].default
    return ReaderWords(
        prefix=options.causal.reader_prefix,
        passage_format=None if is_default or options.data.closed_book else given,
        question_format=options.reader.decoder_prompt_format,
    )


def passage_format(options: Options, reader: Reader) -> str:
    """What is read of a passage: `--encoder_format`, or what a decoder-only reader is used to."""
    if isinstance(reader, CausalReader):
        return reader.prompt.passage_format
    return options.reader.encoder_format


def passage_tokenizer(
    reader: Reader, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedTokenizerBase:
    """What cuts passages: of a decoder-only reader, without tokens that begin or end a text."""
    is_causal = isinstance(reader, CausalReader)
    return without_special_tokens(tokenizer) if is_causal else tokenizer


def build_targets(
    options: Options, reader: Reader, tokenizer: PreTrainedTokenizerBase
) -> TargetTokenizer:
    """What turns targets into labels."""
    kind, prompt_format = TargetTokenizer, options.reader.decoder_prompt_format
    if isinstance(reader, CausalReader):
        kind, prompt_format = ContinuationTokenizer, reader.prompt.question_format
    return kind(
        tokenizer,
        decoder_start_id=reader.decoder_start_id,
        max_length=options.reader.target_maxlength,
        decoder_format=options.reader.decoder_format,
        decoder_prompt_format=prompt_format,
    )
