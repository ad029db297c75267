"""Flags of `--task dense`, the retriever trained by itself; bounds are in option_bounds.py."""

# ruff: noqa: RUF009 - `flag` makes a dataclass field, which the linter cannot see.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gazetteer.collection_options import searches_collections
from gazetteer.flags import flag, flags_of
from gazetteer.paths import path_kind
from gazetteer.task_names import DENSE

if TYPE_CHECKING:
    from gazetteer.options import Options

DenseLoss = Literal["infonce", "margin_mse", "kl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseOptions:
    """Dense: the retriever trained by itself, on queries with their passages (--task dense)."""

    train_n_passages: int = flag(8, "passages per query: a positive and its negatives (new)")
    dense_loss: DenseLoss = flag(
        "infonce", "what teaches: gold passages, or a teacher's scores (new)"
    )
    dense_temperature: float = flag(1.0, "softmax temperature of scores (new)")
    teacher_temperature: float = flag(1.0, "softmax temperature of a teacher's scores (new)")
    matryoshka_dims: list[int] = flag([], "embedding sizes that each have to work alone (new)")
    negatives_x_device: bool = flag(False, "the passages of all workers are candidates (new)")
    mask_known_positives: bool = flag(
        False, "passages known to answer a query, by id or text, are no negatives of it (new)"
    )
    grad_cache: bool = flag(False, "embed in chunks, twice: batches of any size (new)")
    gc_q_chunk_size: int = flag(4, "queries embedded at once with --grad_cache (new)")
    gc_p_chunk_size: int = flag(32, "passages embedded at once with --grad_cache (new)")
    q_max_len: int = flag(32, "tokens of a query; the rest is cut (new)")
    p_max_len: int = flag(128, "tokens of a passage; the rest is cut (new)")
    query_template: str = flag("<text>", "what is embedded of a query (new)")
    doc_template: str | None = flag(
        None, 'such as "Title: <title> Text: <text>"; none = --retriever_format (new)'
    )
    positive_passage_no_shuffle: bool = flag(False, "always a line's first positive (new)")
    negative_passage_no_shuffle: bool = flag(False, "always a line's first negatives (new)")
    dev_queries: str | None = flag(
        None, "judged queries to search for at --eval_freq: a file, or a folder of BEIR (new)"
    )
    dev_qrels: str | None = flag(
        None, "their judgements; none = dev.tsv or test.tsv of the folder (new)"
    )
    dev_passages: int = flag(
        0, "search so many passages beside the judged ones, drawn at random; 0 = all (new)"
    )
    num_train_epochs: float | None = flag(
        None, "train so many epochs, instead of --total_steps (new)"
    )
    warmup_ratio: float | None = flag(
        None, "share of the steps until the learning rate peaks, instead of --warmup_steps (new)"
    )
    logging_dir: str | None = flag(
        None, "folder of TensorBoard's files; none = the experiment's (new)"
    )
    export_path: str | None = flag(
        None, "folder for the retriever alone: the last one, and each checkpoint's (new)"
    )


def dense_rules(options: Options, program: str) -> Iterator[str]:
    """What cannot be asked of a dense run, or of another one."""
    dense, task = options.dense, options.task.task
    if task != DENSE:
        for name in (
            "dev_queries",
            "num_train_epochs",
            "warmup_ratio",
            "logging_dir",
            "export_path",
        ):
            if getattr(dense, name) is not None:
                yield f"--{name} ({getattr(dense, name)}) must come with --task {DENSE}"
        return
    if program != "train" and not searches_collections(options):
        yield f"--task ({task}) must be that of train.py; evaluate.py --retrieve_only judges it"
    for name in ("closed_book", "use_file_passages"):
        if getattr(options.data, name):
            yield f"--{name} must not come with --task {DENSE}, which has nothing to read"
    yield from _dev_rules(options)
    if options.index.refresh_mode == "dedicated":
        yield f"--refresh_mode (dedicated) must not come with --task {DENSE}"
    if dense.dense_loss != "infonce" and dense.train_n_passages < 2:
        rule = f"be at least 2 with --dense_loss {dense.dense_loss}: it compares passages"
        yield f"--train_n_passages ({dense.train_n_passages}) must {rule}"


def _dev_rules(options: Options) -> Iterator[str]:
    queries, qrels = options.dense.dev_queries, options.dense.dev_qrels
    if queries is None:
        if qrels is not None:
            yield f"--dev_qrels ({qrels}) must come with --dev_queries"
        return
    kind = path_kind(queries)
    if kind == "nothing":
        yield f"--dev_queries ({queries}) must be an existing file, or a folder of BEIR"
        return
    for path in dev_files(options.dense) if kind == "folder" else (qrels,):
        if path is None:
            yield f"--dev_queries ({queries}) must come with --dev_qrels, or be a folder of BEIR"
        elif path_kind(str(path)) != "file":
            yield f"--dev_queries ({queries}): found no {path} (--dev_qrels)"
    if kind == "file" and not options.data.passages:
        yield f"--dev_queries ({queries}) must come with --passages, or be a folder of BEIR"


def dev_files(dense: DenseOptions) -> tuple[Path, Path]:
    """Queries and judgements of `--dev_queries`."""
    assert dense.dev_queries is not None
    path, qrels = Path(dense.dev_queries), dense.dev_qrels
    if path_kind(str(path)) != "folder":
        return path, Path(qrels or "")
    split = "dev" if path_kind(str(path / "qrels" / "dev.tsv")) == "file" else "test"
    return path / "queries.jsonl", Path(qrels) if qrels else path / "qrels" / f"{split}.tsv"


def dense_overrides(options: Options) -> tuple[str, dict[str, Any]]:
    """What `--task dense` implies."""
    dense = options.dense
    if options.task.task != DENSE:
        return DENSE, {}
    implied = {"train_retriever": True, "text_maxlength": dense.p_max_len}
    queries = dense.dev_queries
    if queries is not None and not options.data.passages and path_kind(queries) == "folder":
        implied["passages"] = [str(Path(queries) / "corpus.jsonl")]
    return f"task {DENSE}", implied


def dense_remarks(options: Options) -> Iterator[str]:
    """Flags that do nothing here."""
    dense, task = options.dense, options.task.task
    if task == DENSE:
        if options.optimisation.lr != _default_rate(options):
            yield f"lr {options.optimisation.lr}: no effect, --lr_retriever is the retriever's"
        for name in ("negatives_x_device", "mask_known_positives"):
            if getattr(dense, name) and dense.dense_loss != "infonce":
                yield (
                    f"{name}: no effect with --dense_loss {dense.dense_loss}, which is about a "
                    "query's own passages"
                )
        return
    for each in flags_of(DenseOptions):
        value = getattr(dense, each.name)
        if value != each.default:
            yield f"{each.name} {value}: no effect without --task {DENSE}"


def _default_rate(options: Options) -> float:
    return next(each.default for each in flags_of(type(options.optimisation)) if each.name == "lr")
