"""Train a retriever with OpenMatch's flags.   python -m gazetteer.dense.train_dr --help

A thin mapping onto `train.py --task dense`, whose own flags are taken, too. The run is kept in the
output folder: its log, and in `checkpoint/` what the same command resumes from.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from gazetteer.dense.commands import SeedParser, positive
from gazetteer.dense.model_flags import POOLINGS, way_of
from gazetteer.dense.step_on_meta import measure_training
from gazetteer.dense.training import train
from gazetteer.distributed.agreement import main_first
from gazetteer.errors import GazetteerError, OptionError
from gazetteer.mining.line_builder import separator_of
from gazetteer.options import OPTIONS_FILE, Options
from gazetteer.program import run_program, speaks_for_machine
from gazetteer.records import Ranks
from gazetteer.retriever.loading import find_source
from gazetteer.run_lock import LOCK_FILE, only_run
from gazetteer.training.checkpoint import CheckpointFolder

NEVER = 2**31
"""Steps; no run is that long."""
CHECKPOINTS = "checkpoint"
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "fixed"}
DISTILLATION = {"pairwise": "margin_mse", "listwise": "kl"}
LORA_RANK = 8
"""OpenDelta's default, which OpenMatch uses."""
WHEN = ("no", "steps")
IDLE = {
    "do_train": "it trains in any case; an output folder of something else is refused in any case",
    "do_eval": "--eval_path says so",
    "do_predict": "retrieval is a command of its own",
    "resume_from_checkpoint": "the same command goes on from its newest checkpoint in any case",
    "save_total_limit": "all checkpoints stay; only the newest keep the optimiser's state",
    "use_mapping_dataset": "lines are mapped from disk in any case",
    "dataloader_num_workers": "batches are read from a memory map, at once",
    "dataloader_drop_last": "nothing is dropped: batches run on into the next epoch",
    "dataloader_pin_memory": "batches are small",
    "remove_unused_columns": "fields of a line that are not needed are not read",
    "query_column_names": "training lines name their fields",
    "doc_column_names": "training lines name their fields",
    "all_markers": "every field in angle brackets is one",
    "encode_as_text_pair": "a template makes one text",
    "config_name": "the config lies beside the weights",
    "tokenizer_name": "the tokenizer lies beside the weights",
    "cache_dir": "set HF_HOME to move the cache of models",
    "feature": "the last hidden state is pooled",
    "pos_token": "of re-rankers",
    "neg_token": "of re-rankers",
    "dtype": "see --fp16 and --bf16",
    "fp16_opt_level": "apex is not used",
    "fp16_backend": "apex is not used",
    "optim": "it is AdamW",
    "report_to": "TensorBoard and metrics.jsonl are always written",
    "run_name": "--output_dir names the run",
    "ddp_find_unused_parameters": "it is on",
    "per_device_eval_batch_size": "the loss of --eval_path depends on the batch: as in training",
}
"""Flags that change nothing here, and why."""


def build_parser() -> SeedParser:
    """The command's flags; those of train.py, which it passes on, are in docs/flags.md."""
    parser = SeedParser("python -m gazetteer.dense.train_dr", (__doc__ or "").partition(".")[0])
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="for model, tokenizer and checkpoint-N")
    add("--model_name_or_path", required=True, help="start model: folder or hub name")
    add("--train_path", help="training lines, see gazetteer.ir.training_formats")
    add("--train_dir", type=Path, help="folder of which all *.jsonl are read")
    add("--eval_path", help="lines of which the loss is computed")
    parser.add_switch("--overwrite_output_dir", "begin anew where a run is there already")
    _add_steps(parser)
    _add_learning(parser)
    _add_towers(parser)
    parser.add_idle(IDLE)
    return parser


def _add_steps(parser: SeedParser) -> None:
    add = parser.add_argument
    for name, default in (("save", "steps"), ("logging", "steps"), ("evaluation", "no")):
        add(f"--{name}_strategy", choices=WHEN, default=default, help=f"see --{name}_steps")
    add("--eval_strategy", choices=WHEN, dest="evaluation_strategy", help="the same, today's name")
    add("--save_steps", type=positive, default=500)
    add("--eval_steps", type=positive, help="none = --logging_steps")
    add("--logging_steps", type=positive, default=500)
    add("--num_train_epochs", type=float, default=3.0)
    add("--max_steps", type=int, default=-1, help="updates in all, instead of epochs; -1 = epochs")
    add("--logging_dir", help="TensorBoard's folder; none = --output_dir/runs")


def _add_learning(parser: SeedParser) -> None:
    add, switch = parser.add_argument, parser.add_switch
    add("--per_device_train_batch_size", type=positive, default=8, help="queries per worker")
    add("--per_gpu_train_batch_size", type=positive, dest="per_device_train_batch_size")
    add("--gradient_accumulation_steps", type=positive, default=1)
    add("--learning_rate", type=float, default=5e-5)
    add("--warmup_ratio", type=float, default=0.1)
    add("--warmup_steps", type=int, default=0, help="updates, instead of a ratio; 0 = the ratio")
    add("--lr_scheduler_type", choices=SCHEDULES, default="linear")
    add("--weight_decay", type=float, default=0.0)
    add("--adam_beta1", type=float, default=0.9)
    add("--adam_beta2", type=float, default=0.999)
    add("--adam_epsilon", type=float, default=1e-8)
    add("--max_grad_norm", type=float, default=1.0)
    add("--seed", type=int, default=42)
    switch("--fp16", "as --precision fp16 of train.py: the retriever keeps float32 weights")
    switch("--bf16", "weights and arithmetic in bfloat16")
    switch("--gradient_checkpointing", "less memory, more time")
    switch("--disable_tqdm", "no progress bars")
    switch("--distillation", "learn from the scores of the lines")
    add("--distil_mode", choices=DISTILLATION, default="pairwise")
    add("--data_cache_dir", help="prepared lines, as --cache_dir of train.py")


def _add_towers(parser: SeedParser) -> None:
    parser.add_argument("--pooling", choices=POOLINGS, help="none = as the model notes, or first")
    parser.add_switch("--normalize", "scale embeddings to length 1")
    parser.add_switch("--untie_encoder", "separate towers for queries and passages")
    parser.add_argument("--param_efficient_method", help="lora, of rank 8 or --lora_rank")
    parser.add_argument("--doc_template", help='none = "<title>", the separator, "<text>"')


def train_words(values: argparse.Namespace, rest: Sequence[str]) -> list[str]:
    """The command line of train.py that does what these flags say.

    Args:
        values: of `build_parser`.
        rest: flags it does not know, which are train.py's.

    Raises:
        OptionError: a flag cannot be honoured.
    """
    if values.adam_beta1 != 0.9:
        raise OptionError(f"--adam_beta1 ({values.adam_beta1}) must be 0.9")
    if values.param_efficient_method not in (None, "lora"):
        raise OptionError(
            f"--param_efficient_method ({values.param_efficient_method}) must be lora"
        )
    output = values.output_dir.resolve()
    at_once = values.gradient_accumulation_steps
    flags: dict[str, object] = {
        "task": "dense",
        "name": output.name,
        "checkpoint_dir": output.parent,
        "export_path": output,
        "retriever_model_path": values.model_name_or_path,
        "train_data": _training_files(values),
        "shuffle": True,
        "logging_dir": values.logging_dir or output / "runs",
        "per_gpu_batch_size": values.per_device_train_batch_size,
        "accumulation_steps": at_once,
        "lr_retriever": values.learning_rate,
        "scheduler": SCHEDULES[values.lr_scheduler_type],
        "weight_decay": values.weight_decay,
        "beta2": values.adam_beta2,
        "epsilon": values.adam_epsilon,
        "clip": values.max_grad_norm,
        "seed": values.seed,
        "precision": "bf16" if values.bf16 else "fp16" if values.fp16 else "fp32",
        # A step of train.py is a micro-batch, one of OpenMatch is an update.
        "log_freq": _steps(values.logging_strategy, values.logging_steps, at_once),
        "save_freq": _steps(values.save_strategy, values.save_steps, at_once),
        "use_gradient_checkpoint_retriever": values.gradient_checkpointing,
        "no_progress": values.disable_tqdm,
        "untie_retriever": values.untie_encoder,
        "doc_template": _doc_template(values),
        "cache_dir": values.data_cache_dir,
    }
    pooling, normalize = way_of(values.model_name_or_path, values.pooling, values.normalize)
    flags |= {"retriever_pooling": pooling, "retriever_normalize": normalize}
    flags |= _length(values, at_once) | _evaluation(values, at_once)
    if values.param_efficient_method is not None:
        flags["lora_rank"] = LORA_RANK
    if values.distillation:
        flags["dense_loss"] = DISTILLATION[values.distil_mode]
    return [*(word for name, value in flags.items() for word in _words(name, value)), *rest]


def _training_files(values: argparse.Namespace) -> list[str]:
    if (values.train_path is None) == (values.train_dir is None):
        raise OptionError("--train_path or --train_dir is required, and not both")
    if values.train_path is not None:
        return [values.train_path]
    files = sorted(map(str, values.train_dir.glob("*.jsonl")))
    if not files:
        raise OptionError(f"--train_dir ({values.train_dir}) must be a folder with *.jsonl files")
    return files


def _length(values: argparse.Namespace, at_once: int) -> dict[str, object]:
    flags: dict[str, object] = {"num_train_epochs": values.num_train_epochs}
    if values.max_steps > 0:
        flags = {"total_steps": values.max_steps * at_once}
    if values.warmup_steps > 0:
        return flags | {"warmup_steps": values.warmup_steps * at_once}
    return flags | {"warmup_ratio": values.warmup_ratio}


def _evaluation(values: argparse.Namespace, at_once: int) -> dict[str, object]:
    if values.eval_path is None or values.evaluation_strategy == "no":
        return {"eval_freq": NEVER}
    steps = (values.eval_steps or values.logging_steps) * at_once
    return {"eval_data": values.eval_path, "eval_freq": steps}


def _steps(strategy: str, steps: int, at_once: int) -> int:
    return NEVER if strategy == "no" else steps * at_once


def _doc_template(values: argparse.Namespace) -> str | None:
    """As given; else OpenMatch's own, so that build_index embeds what was trained on."""
    if values.doc_template is not None:
        return values.doc_template
    try:
        source = find_source(values.model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(source.tokenizer)
    except (OSError, ValueError):
        return None  # Training will say what is wrong with the model.
    return f"<title>{separator_of(tokenizer) or ' '}<text>"


def _words(name: str, value: object) -> Iterator[str]:
    if value is None or value is False:
        return
    yield f"--{name}"
    if isinstance(value, list):
        yield from value
    elif value is not True:
        yield str(value)


def _notes(parser: SeedParser, values: argparse.Namespace) -> Iterator[str]:
    yield from parser.idle_given(values)
    if values.eval_path is not None and values.evaluation_strategy == "no":
        yield "--eval_path has no effect: see --evaluation_strategy steps"
    if values.fp16:
        yield "--fp16 leaves the retriever in float32, as --precision fp16 of train.py; see --bf16"


def _require_free(output: Path) -> None:
    """Refuse a folder that holds something else than a run of this command."""
    found = {path.name for path in output.iterdir()} if output.is_dir() else set()
    # A start that was killed leaves its lock.
    if found - {LOCK_FILE} and OPTIONS_FILE not in found:
        raise OptionError(
            f"--output_dir ({output}) must be empty, or hold a run to go on with; "
            "--overwrite_output_dir puts a new one there"
        )


def _begin_anew(output: Path) -> None:
    """Forget the checkpoints of an earlier run."""
    steps = CheckpointFolder(output / CHECKPOINTS).steps()
    for link in (output / f"checkpoint-{step}" for step in steps):
        if link.is_symlink():
            link.unlink()
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Map the flags, and train."""
    parser = build_parser()
    values, rest = parser.parse_known_args(arguments)
    is_speaker = speaks_for_machine(os.environ)
    try:
        words = train_words(values, rest)
        if not values.overwrite_output_dir:
            _require_free(values.output_dir)
    except GazetteerError as error:
        sys.stderr.write(f"{parser.prog}: error: {error}\n" if is_speaker else "")
        return error.exit_code
    if is_speaker:
        lines = [*_notes(parser, values), f"the same: train.py {shlex.join(words)}"]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def job(options: Options, ranks: Ranks) -> int:
        with only_run(values.output_dir, ranks, options.launch.collective_timeout_seconds):
            if values.overwrite_output_dir:
                main_first(lambda: _begin_anew(values.output_dir), ranks)
            return train(options, ranks)

    if values.local_rank >= 0:
        words += ["--local_rank", str(values.local_rank)]
    return run_program("train", job, words, measure=measure_training)


if __name__ == "__main__":
    sys.exit(main())
