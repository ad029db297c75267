"""ScaleDown's flags -> those of `train.py` and `evaluate.py`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from gazetteer.reader.loading import is_decoder_only

QUERY_TOKENS = 64
"""Room for the query beside a passage."""
RUN = "training"
"""Name of the run in the output folder."""


def steps_of(examples: int, batch: int, epochs: int, most: int | None) -> int:
    """Steps of a training: whole epochs, the last batch of each filled from the next one.

    Args:
        examples: at least 1.
        batch: examples of a step, over all workers.
        epochs: how often each example is seen.
        most: `--max_steps`.
    """
    steps = math.ceil(examples / batch) * epochs
    return steps if most is None else min(steps, most)


def model_words(values: argparse.Namespace) -> list[str]:
    """Flags of `train.py` and `evaluate.py` that say what the models are.

    Raises:
        CheckpointError: there is no such generator.
    """
    tokens = values.num_memory_tokens * values.compression_rate
    # A decoder-only reader is asked after its passages.
    is_asked_later = is_decoder_only(values.generator_model)
    layout = "context: {text}"
    words = ["--reader_model_type", values.generator_model, "--precision", values.precision]
    words += ["--dropout", "0", "--seed", str(values.seed)]
    words += ["--text_maxlength", str(tokens + QUERY_TOKENS)]
    words += ["--encoder_format", "\n{text}" if is_asked_later else f"{{query}} {layout}"]
    words += ["--compressor_format", layout if values.query_independent else f"{{query}} {layout}"]
    words += ["--num_memory_tokens", str(values.num_memory_tokens)]
    words += ["--compression_rate", str(values.compression_rate)]
    words += ["--compressor_pooling", values.compressor_pooling]
    if values.compressor_type == "n_layers":
        words += ["--compressor", "n_layers", "--compressor_layers", str(values.num_layers)]
    else:
        words += ["--compressor", "encoder", "--compressor_model_path", values.compressor_model]
    return words


def task_words(values: argparse.Namespace) -> list[str]:
    """Flags that say what is asked, and how it is answered."""
    words = ["--task", "qa", "--use_file_passages", "--checkpoint_dir", str(values.output_dir)]
    words += ["--eval_data", str(lines_of(values)["eval"])]
    words += ["--target_maxlength", str(values.max_answer_tokens)]
    words += ["--generation_max_length", str(values.max_answer_tokens + 1)]
    words += ["--per_gpu_batch_size", str(values.batch_size), "--write_results"]
    return words


def train_words(values: argparse.Namespace, steps: int) -> list[str]:
    """The command line of `train.py`."""
    rate = values.learning_rate_compressor
    if rate is None:
        rate = 5e-5 if values.compressor_type == "n_layers" else 1e-4
    words = [*model_words(values), *task_words(values), "--name", RUN]
    words += ["--train_data", str(lines_of(values)["train"]), "--shuffle"]
    words += ["--n_context", str(values.train_documents)]
    words += ["--total_steps", str(steps), "--warmup_steps", str(math.ceil(0.05 * steps))]
    words += ["--scheduler", "linear", "--weight_decay", "0.1", "--clip", "1.0"]
    words += ["--lr", str(values.learning_rate), "--lr_compressor", str(rate)]
    words += ["--distill_kl_weight", str(values.distill_kl_weight)]
    # A training shorter than that is logged once, at its end.
    words += ["--log_freq", str(min(values.logging_steps, steps))]
    words += ["--eval_freq", str(values.eval_steps)]
    words += ["--save_freq", str(values.save_steps or values.eval_steps)]
    if values.lora_rank:
        words += ["--reader_lora_rank", str(values.lora_rank), "--reader_lora_dropout", "0.1"]
    if values.enable_reranking:
        words += ["--rerank_target", "file", "--rerank_weight", "0.05"]
    if values.gradient_checkpointing:
        words += ["--use_gradient_checkpoint_reader"]
    return words


def lines_of(values: argparse.Namespace) -> dict[str, Path]:
    """Where the records are kept as lines."""
    return {part: values.output_dir / "data" / f"{part}.jsonl" for part in ("train", "eval")}
