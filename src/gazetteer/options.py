"""Every flag of `train.py` and `evaluate.py` on one page: name, type, default, help.

What values are allowed, and what they imply for each other, is in `option_rules.py`.
Only `build.py` and the loops read options; stages get plain values.
"""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from gazetteer.causal_options import CausalOptions
from gazetteer.collection_options import CollectionOptions
from gazetteer.compressor_options import CompressorOptions
from gazetteer.config_file import read_config
from gazetteer.dense_options import DenseOptions
from gazetteer.errors import OptionError
from gazetteer.flags import (
    FlagParser,
    add_flags,
    all_flags,
    checked_values,
    compose,
    flag,
    flat_values,
    groups_of,
)
from gazetteer.launch_options import LaunchOptions, SlurmOptions
from gazetteer.lead_options import LeadOptions
from gazetteer.mining_options import MiningOptions
from gazetteer.option_overrides import resolve
from gazetteer.option_rules import Program, check
from gazetteer.paths import default_cache_folder, path_kind
from gazetteer.reader_names import READER_CHOICES
from gazetteer.sharding_options import ShardingOptions
from gazetteer.task_names import CHOICES
from gazetteer.tower_options import TowerOptions

OPTIONS_FILE = "options.json"
"""Name of the saved options, in an experiment's folder and beside each checkpoint."""

GoldScoreMode = Literal["evalnormsum", "loop", "ppmean", "emdr", "pdist", "adist", "emdr2"]
FaissIndexType = Literal["ivfflat", "flat", "ivfsq", "ivfpq", "pq", "sq", "pqfs", "ivfpqfs"]
Permutations = Literal["single", "cyclic", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentOptions:
    """Experiment: what the run is called, where it starts, how often it reports."""

    config: str | None = flag(
        None, "YAML or JSON file of flags; the command line wins (new)", metavar="FILE"
    )
    name: str = flag("experiment_name", "name of the experiment, and of its folder")
    checkpoint_dir: str = flag(
        "./checkpoint/", "folder that holds the experiments' folders", metavar="FOLDER"
    )
    model_path: str = flag(
        "none", "folder of a checkpoint to start from; none = pretrained parts", metavar="FOLDER"
    )
    seed: int = flag(0, "fixes everything random")
    log_freq: int = flag(100, "steps between two lines of statistics")
    eval_freq: int = flag(500, "steps between two evaluations")
    save_freq: int = flag(5000, "steps between two checkpoints")
    no_progress: bool = flag(False, "show no progress bars (new)")

    @property
    def folder(self) -> Path:
        """Where all that the run writes goes, but for the cache."""
        return Path(self.checkpoint_dir) / self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """Data: what is read, and what is written about it."""

    train_data: list[str] = flag([], "jsonl files to train on", metavar="FILE")
    eval_data: list[str] = flag(
        [], "jsonl files to evaluate on; test collections with --retrieve_only", metavar="FILE"
    )
    per_gpu_batch_size: int = flag(1, "examples per worker and step, in training and evaluation")
    global_batch_size: int | None = flag(
        None, "examples per step of all workers together; none = those of each, added up (new)"
    )
    per_gpu_embedder_batch_size: int = flag(512, "passages per worker embedded at once")
    shuffle: bool = flag(False, "shuffle the training data, anew each epoch")
    passages: list[str] | None = flag(None, "jsonl files of the passages to index", metavar="FILE")
    max_passages: int = flag(-1, "index so many passages at most; -1 = all")
    use_file_passages: bool = flag(False, "read the passages given with each example; no retrieval")
    closed_book: bool = flag(False, "no passages at all: the plain reader")
    write_results: bool = flag(False, "write predictions and passages of each evaluation")
    dont_write_passages: bool = flag(False, "leave the passages out of written results")
    on_bad_line: Literal["error", "skip"] = flag(
        "error", "what a malformed line of data does (new)"
    )
    cache_dir: str | None = flag(
        None, "prepared passages; none = $XDG_CACHE_HOME/gazetteer, or ~/.cache/gazetteer (new)"
    )

    @property
    def cache_folder(self) -> Path:
        """Where passages and their tokens are kept between runs: `--cache_dir` or its default."""
        return Path(self.cache_dir) if self.cache_dir else default_cache_folder()


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOptions:
    """Task: what an example means."""

    task: str | None = flag(
        None, "what examples are, and how answers are judged; required", choices=CHOICES
    )
    qa_prompt_format: str = flag("question: {question} answer: <extra_id_0>", "query of --task qa")
    mlm_noise_density: float = flag(0.15, "share of a text that is masked")
    mlm_mean_noise_span_length: float = flag(3.0, "mean length of a masked span, in tokens")
    min_words_per_lm_instance: int | None = flag(None, "mlm, lm, section: skip shorter texts")
    min_lm_context_ratio: float = flag(0.5, "lm: share of a text that is given, at least")
    max_lm_context_ratio: float = flag(0.5, "lm: share of a text that is given, at most")
    multiple_choice_num_options: int = flag(4, "options of a question")
    multiple_choice_train_permutations: Permutations = flag("single", "orders trained on")
    multiple_choice_eval_permutations: Permutations = flag("single", "orders averaged over")
    rank_candidates: bool = flag(
        False, "fever, multiple_choice: also score each possible answer, and take the best (new)"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrieverOptions:
    """Retriever: which passages are found, and how the retriever learns."""

    retriever_model_path: str = flag(
        "facebook/contriever", "encoder to start from: hub name or folder"
    )
    train_retriever: bool = flag(False, "train the retriever as well as the reader")
    retrieve_only: bool = flag(False, "evaluate retrieval alone; no reader is loaded")
    retriever_n_context: int = flag(5, "passages per query the retriever learns from")
    gold_score_mode: GoldScoreMode = flag(
        "ppmean", "what teaches the retriever; ppmean is the paper's pdist, evalnormsum its adist"
    )
    temperature_score: float = flag(0.01, "softmax temperature of the retriever's scores")
    temperature_gold: float = flag(0.01, "softmax temperature of the reader's signal")
    compute_crossattention_stats: bool = flag(False, "log how attention agrees with the signal")
    filtering_overretrieve_ratio: int = flag(2, "search so many times more where a task filters")
    freeze_retriever_steps: int = flag(-1, "keep the retriever frozen for the first steps; -1 = no")
    query_side_retriever_training: bool = flag(False, "train the query tower, freeze the passages'")
    retrieve_with_rerank: bool = flag(False, "re-rank what is found with fresh embeddings")
    n_to_rerank_with_retrieve_with_rerank: int = flag(128, "passages per query to re-rank")
    retriever_pooling: Literal["mean", "cls", "sqrt", "first", "no"] = flag(
        "mean", "tokens to embedding; first is cls (new)"
    )
    retriever_normalize: bool = flag(False, "scale embeddings to length 1 (new)")
    untie_retriever: bool = flag(False, "separate query and passage towers, both trained (new)")
    reuse_reader_encodings: bool = flag(
        False, "score passages on the training pass's encodings: one pass, with dropout (new)"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexOptions:
    """Index: how passages are searched, saved and refreshed."""

    load_index_path: str | None = flag(
        None, "folder of a saved index to start from", metavar="FOLDER"
    )
    save_index_path: str | None = flag(
        None, "folder to save the index to, after every build", metavar="FOLDER"
    )
    save_index_n_shards: int = flag(
        128, "files to save the index in; any number of workers loads it"
    )
    index_mode: Literal["flat", "faiss"] = flag("flat", "exact search, or a compressed index")
    index_dtype: Literal["fp32", "fp16", "bf16", "int8"] = flag(
        "fp32", "flat: kept in memory; if not fp32, vectors lie in --cache_dir (new)"
    )
    faiss_index_type: FaissIndexType = flag("flat", "kind of compressed index")
    faiss_code_size: int | None = flag(
        None, "bytes per passage; none = one for 8 numbers, sq one for each, ivfsq for two"
    )
    faiss_nlist: int | None = flag(
        None, "lists of the ivf kinds; none = square root of the number of passages (new)"
    )
    faiss_nprobe: int | None = flag(
        None, "lists searched per query; none = an eighth, at least 32; Atlas searches all (new)"
    )
    rescore: int | None = flag(
        None, "faiss: candidates per query scored exactly; none = 4 per hit, 0 = no (new)"
    )
    refresh_index: str = flag("-1", "refresh rate: -1 never, 500, or 0-1000:500,1000-9000:2000")
    refresh_mode: Literal["blocking", "interleaved", "dedicated"] = flag(
        "blocking", "who embeds: all, all bit by bit, or others (new)"
    )
    refresh_steps: int = flag(100, "steps an interleaved refresh is spread over (new)")
    refresh_workers: int = flag(1, "processes that only embed, with dedicated refreshes (new)")
    staleness_sample: int = flag(
        0, "passages re-embedded at each log line to measure staleness; 0 = none (new)"
    )
    refresh_below_overlap: float = flag(
        0.0, "refresh when the sample's top k overlaps less than this, 0 to 1; 0 = never (new)"
    )
    allow_stale_index: bool = flag(False, "use a saved index that other weights embedded (new)")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderOptions:
    """Reader: which model reads, how much, and in what words."""

    reader_model_type: str | None = flag(
        None,
        "reader: T5 or decoder-only, by hub name, folder or .gguf; needed without --model_path",
        choices=READER_CHOICES,
    )
    text_maxlength: int = flag(200, "tokens of query and passage together; the rest is cut")
    target_maxlength: int | None = flag(
        None, "tokens of a target; none = the model's, -1 = no limit"
    )
    n_context: int = flag(1, "passages per query given to the reader")
    encoder_format: str = flag("{query} title: {title} context: {text}", "what the reader reads")
    retriever_format: str = flag("{title} {text}", "what the retriever embeds of a passage")
    decoder_format: str | None = flag(None, "what targets look like; field {target}")
    decoder_prompt_format: str | None = flag(None, "what answers begin with; field {query}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """Generation: how answers are written."""

    generation_max_length: int = flag(128, "tokens of an answer, at most")
    generation_min_length: int | None = flag(None, "tokens of an answer, at least")
    generation_length_penalty: float = flag(1.0, "above 0 favours long answers, with beams")
    generation_num_beams: int = flag(1, "beams; 1 = greedy")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimisationOptions:
    """Optimisation: how weights change, and what memory that takes."""

    total_steps: int = flag(1000, "steps to train for; a step is a micro-batch, as in Atlas")
    warmup_steps: int = flag(1000, "steps until the learning rate peaks")
    scheduler_steps: int | None = flag(None, "length of the schedule; none = total_steps")
    scheduler: Literal["linear", "cosine", "fixed"] = flag("cosine", "learning rate after its peak")
    accumulation_steps: int = flag(1, "micro-batches per update; their gradients are averaged")
    lr: float = flag(1e-4, "learning rate of the reader")
    lr_retriever: float = flag(1e-5, "learning rate of the retriever")
    dropout: float = flag(0.1, "dropout rate, of reader and retriever")
    clip: float = flag(1.0, "largest gradient norm")
    weight_decay: float = flag(0.1, "AdamW weight decay, of all weights")
    epsilon: float = flag(1e-6, "AdamW epsilon")
    beta2: float = flag(0.999, "AdamW beta2")
    alpha: float = flag(1.0, "no effect; accepted as in Atlas")
    save_optimizer: bool = flag(False, "save the optimisers too, for an exact resume")
    precision: Literal["fp16", "fp32", "bf16"] = flag("fp32", "of weights and arithmetic")
    shard_optim: bool = flag(False, "spread optimiser state over the workers")
    shard_grads: bool = flag(False, "spread gradients over the workers")
    use_gradient_checkpoint_reader: bool = flag(False, "less memory, more time: reader")
    use_gradient_checkpoint_retriever: bool = flag(False, "less memory, more time: retriever")
    max_nonfinite_steps: int = flag(20, "stop after so many inf or nan steps in a row (new)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """All flags of a run, in groups; flat on the command line, nested in code.

    Attributes:
        notes: one line per value that `resolve` changed or that has no effect, for the log.
    """

    experiment: ExperimentOptions = field(default_factory=ExperimentOptions)
    data: DataOptions = field(default_factory=DataOptions)
    task: TaskOptions = field(default_factory=TaskOptions)
    retriever: RetrieverOptions = field(default_factory=RetrieverOptions)
    towers: TowerOptions = field(default_factory=TowerOptions)
    dense: DenseOptions = field(default_factory=DenseOptions)
    mining: MiningOptions = field(default_factory=MiningOptions)
    collections: CollectionOptions = field(default_factory=CollectionOptions)
    lead: LeadOptions = field(default_factory=LeadOptions)
    index: IndexOptions = field(default_factory=IndexOptions)
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    compressor: CompressorOptions = field(default_factory=CompressorOptions)
    causal: CausalOptions = field(default_factory=CausalOptions)
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    optimisation: OptimisationOptions = field(default_factory=OptimisationOptions)
    sharding: ShardingOptions = field(default_factory=ShardingOptions)
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)
    notes: tuple[str, ...] = field(default=(), compare=False)


def build_parser(program: Program) -> FlagParser:
    """Build the command line of `train.py` or `evaluate.py`: the same flags, in groups."""
    data = "--train_data FILE [FILE ...]" if program == "train" else "--eval_data FILE [FILE ...]"
    parser = FlagParser(
        prog=f"{program}.py",
        usage=f"{program}.py --task NAME {data} --passages FILE [FILE ...] [--flag VALUE ...]",
        description="Flags come in any order; of a flag given twice, the last counts; --no-FLAG"
        " switches off what --config switched on. [default]",
    )
    for group in groups_of(Options).values():
        add_flags(parser, group)
    return parser


def parse_options(argv: Sequence[str] | None = None, *, program: Program) -> Options:
    """Turn the command line, and the file of `--config`, into options that fit together.

    Args:
        argv: the words after the program's name; None = those of this process.
        program: which entry point asks; it decides what is required.

    Raises:
        OptionError: the values, or the file's, break rules: one line each.
        SystemExit: 2 where the command line itself cannot be read, after one line on stderr; 0
            after --help.
    """
    parser = build_parser(program)
    values = vars(parser.parse_args(argv))
    if values["config"] is not None:
        parser.set_defaults(**_config_values(values["config"]))
        values = vars(parser.parse_args(argv))
    options = compose(Options, values)
    check(options, program)
    resolved, notes = resolve(options)
    return replace(resolved, notes=tuple(notes))


def options_to_dict(options: Options) -> dict[str, Any]:
    """Map flag name to value, flat, in the order of this page."""
    return flat_values(options)


def options_from_dict(values: Mapping[str, Any], *, source: str = "options") -> Options:
    """Build options from a flat mapping; missing flags take their defaults. No rules are checked.

    Raises:
        OptionError: unknown names or values of the wrong type, all of them, naming `source`.
    """
    return compose(Options, checked_values(all_flags(Options), values, source))


def save_options(options: Options, path: str | Path) -> None:
    """Write `options.json`: one flat JSON object, which `--config` reads too.

    `config` itself is left out: what that file said is among the other values.
    """
    values = {key: value for key, value in options_to_dict(options).items() if key != "config"}
    Path(path).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_options(path: str | Path) -> Options:
    """Read what `save_options` wrote; flags that did not exist then take their defaults.

    Raises:
        OptionError: the file cannot be read, or holds unknown flags or values of a wrong type.
    """
    return options_from_dict(read_config(path), source=str(path))


def options_log(options: Options) -> str:
    """Format `opt.log`: sorted `key: value` lines, the default beside each value that differs."""
    flags = all_flags(Options)
    lines = []
    for key, value in sorted(options_to_dict(options).items()):
        is_changed = value != flags[key].default
        lines.append(
            f"{key}: {value}" + (f" (default: {flags[key].default})" if is_changed else "")
        )
    return "\n".join(lines) + "\n"


def _config_values(path: str) -> dict[str, Any]:
    if path_kind(path) != "file":
        raise OptionError(f"--config ({path}) must be an existing file")
    flags = {name: each for name, each in all_flags(Options).items() if name != "config"}
    return checked_values(flags, read_config(path), path)
