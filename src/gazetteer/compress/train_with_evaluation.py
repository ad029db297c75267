"""Train a compressor and its reader on prepared records, and say what that changed.

    python train_with_evaluation.py --train_data small_real_dataset.json

A thin mapping onto `train.py` with lines of `--use_file_passages`; the flags are ScaleDown's. The
run is kept in `--output_dir`/training, and the same command goes on with it. Another model or other
data begin anew; what was there is put aside.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gazetteer.compress import before_after, plots
from gazetteer.compress.devices import choose_device
from gazetteer.compress.lines import read_both, write_lines
from gazetteer.compress.one_training import make_room, settings_of
from gazetteer.compress.scoreboard import add_timing
from gazetteer.compress.words import RUN, lines_of, steps_of, train_words
from gazetteer.dense.commands import SeedParser, positive, require_writable, run_command
from gazetteer.distributed.agreement import main_first
from gazetteer.errors import OptionError
from gazetteer.one_line_errors import exit_code
from gazetteer.optional_packages import import_optional
from gazetteer.options import parse_options
from gazetteer.program import speaks_for_machine
from gazetteer.records import Ranks
from gazetteer.training.checkpoint import CheckpointFolder
from gazetteer.training.loop import train

logger = logging.getLogger(__name__)

MODERNBERT = "answerdotai/ModernBERT-base"
GENERATOR = "mistralai/Mistral-7B-Instruct-v0.2"
FINAL = "checkpoints/final"
SPEAKER = "train_with_evaluation.py: error"


def build_parser() -> SeedParser:
    """The command's flags."""
    parser = SeedParser("train_with_evaluation.py", (__doc__ or "").partition(",")[0])
    add = parser.add_argument
    add("--train_data", type=Path, required=True, help="records: JSON list, jsonl or parquet")
    add(
        "--eval_data",
        type=Path,
        help="records; none = NAME_eval beside --train_data, else its last tenth",
    )
    add(
        "--output_dir", type=Path, default=Path("training_with_eval"), help="for everything written"
    )
    _add_models(parser)
    _add_learning(parser)
    add("--logging_steps", type=positive, default=10, help="between two lines of statistics")
    add("--eval_steps", type=positive, default=100, help="between two evaluations on the way")
    add("--save_steps", type=positive, help="between two checkpoints; none = --eval_steps")
    add("--eval_documents", type=positive, default=10, help="passages per query, before and after")
    add("--max_eval_examples", type=positive, help="answer so many at most; none = all")
    parser.add_switch("--no_scoreboard", "without the rows that only compare")
    add_timing(parser)
    add("--device", choices=("gpu", "cpu", "trainium"), default="gpu")
    return parser


def _add_models(parser: SeedParser) -> None:
    add = parser.add_argument
    add("--compressor_type", choices=("modernbert", "n_layers"), default="modernbert")
    add("--compressor_model", default=MODERNBERT, help="modernbert: that, or another encoder")
    add("--num_layers", type=positive, default=5, help="n_layers: of the generator's own")
    add("--compressor_pooling", choices=("memory", "mean", "first"), default="memory")
    add("--num_memory_tokens", type=positive, default=8, help="vectors per passage")
    add("--compression_rate", type=positive, default=16, help="passage tokens per vector")
    parser.add_switch("--query_independent", "the compressor does not see the query")
    parser.add_switch("--enable_reranking", "learn the records' reranking_scores, weight 0.05")
    add("--generator_model", default=GENERATOR, help="decoder-only or T5: hub name, folder, GGUF")
    add("--lora_rank", type=int, default=16, help="adapters of the generator; 0 = all its weights")
    add("--precision", choices=("bf16", "fp32", "fp16"), default="bf16")
    parser.add_switch("--gradient_checkpointing", "less memory, more time")


def _add_learning(parser: SeedParser) -> None:
    add = parser.add_argument
    add("--batch_size", type=positive, default=4, help="examples per worker and step")
    add("--num_epochs", type=positive, default=1)
    add("--max_steps", type=positive, help="stop after so many, if the epochs have more")
    add("--learning_rate", type=float, default=1e-4, help="of the generator")
    add("--learning_rate_compressor", type=float, help="none = 5e-5 for n_layers, else 1e-4")
    add("--distill_kl_weight", type=float, default=0.0, help="KL to the reader on whole passages")
    add("--train_documents", type=positive, default=5, help="passages per query")
    add("--max_answer_tokens", type=positive, default=128)
    add("--seed", type=int, default=42)


def train_on_records(codes: list[int], values: argparse.Namespace, ranks: Ranks) -> None:
    """Records to lines, and train on them.

    Collective: every rank must call this.

    Args:
        codes: receives the exit code of the training.
        values: of the command line.
        ranks: this process among its peers.

    Raises:
        GazetteerError: flags or files are wrong, before anything is trained.
    """
    learned, judged, source = read_both(values.train_data, values.eval_data)
    if values.enable_reranking and any(record.reranking_scores is None for record in learned):
        raise OptionError(
            f"--enable_reranking: {values.train_data} has records without reranking_scores"
        )
    judged = judged[: values.max_eval_examples]
    batch = values.batch_size * ranks.world_size
    steps = steps_of(len(learned), batch, values.num_epochs, values.max_steps)

    def write() -> None:
        make_room(values.output_dir, settings_of(values, learned))
        require_writable(values.output_dir / "data" / "train.jsonl", "--output_dir")
        files = lines_of(values)
        write_lines(files["train"], learned, scored=values.enable_reranking)
        write_lines(files["eval"], judged, scored=False)
        logger.info(
            "%d records to learn from, %d to evaluate on (%s); %d steps of %d",
            len(learned), len(judged), source, steps, batch,
        )  # fmt: skip

    main_first(write, ranks)
    codes.append(train(parse_options(train_words(values, steps), program="train"), ranks))


def get_ready(values: argparse.Namespace) -> None:
    """Settle the device, and find out now what would be missing at the end.

    Raises:
        OptionError: there is no such device, or a package is not installed.
    """
    choose_device(values.device)
    plots.figures()
    if not values.no_scoreboard:
        import_optional("bm25s", "the row of BM25's first passage needs bm25s (or --no_scoreboard)")


def keep_final(output: Path) -> Path:
    """Put the newest checkpoint where ScaleDown keeps it; files are linked where they can be."""
    newest = CheckpointFolder(output / RUN / "checkpoint").newest_intact()
    assert newest is not None, "a training that ended has saved"
    final = output / FINAL
    partial_copy = final.with_name(".final.partial")
    shutil.rmtree(partial_copy, ignore_errors=True)
    shutil.copytree(newest, partial_copy, copy_function=_link_or_copy)
    shutil.rmtree(final, ignore_errors=True)
    partial_copy.rename(final)
    return final


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    values = build_parser().parse_args(arguments)
    codes: list[int] = []
    is_first = speaks_for_machine(os.environ)
    try:
        get_ready(values)
    except OptionError as error:
        if is_first:
            sys.stderr.write(f"{SPEAKER}: {error}\n")
        return error.exit_code
    failed = run_command(build_parser(), partial(train_on_records, codes), arguments)
    code = failed or codes[0]
    is_main = is_first and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    if code or not is_main:
        return code
    final = keep_final(values.output_dir)
    return exit_code(SPEAKER, lambda: before_after.compare(values, final))
