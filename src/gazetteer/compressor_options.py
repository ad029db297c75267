"""Flags of the compressor: what makes few vectors of a passage, and what teaches it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gazetteer.flags import flag, flags_of
from gazetteer.task_names import DENSE

if TYPE_CHECKING:
    from gazetteer.options import Options

DEFAULT_FORMAT = "{query} title: {title} context: {text}"
DEFAULT_VECTORS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class CompressorOptions:
    """Compressor: few vectors of each passage, between search and reader, and what teaches it."""

    compressor: Literal["none", "n_layers", "encoder", "pool"] | None = flag(
        None, "what compresses passages; none = what --model_path has (new)"
    )
    compressor_model_path: str | None = flag(None, "encoder: hub name or folder of the model (new)")
    compressor_layers: int | None = flag(
        None, "n_layers: how many are copied; none = a quarter of the reader's (new)"
    )
    compressor_pooling: Literal["memory", "mean", "first"] | None = flag(
        None, "learned tokens, averages of spans, or first states; none = memory (new)"
    )
    num_memory_tokens: int | None = flag(
        None, "vectors of a passage; none = 8 without --compression_rate (new)"
    )
    compression_rate: float | None = flag(
        None, "passage tokens for each vector; with --num_memory_tokens the passage's length (new)"
    )
    compressor_format: str | None = flag(
        None, f"what the compressor reads; none = {DEFAULT_FORMAT} (new)"
    )
    compressor_maxlength: int | None = flag(
        None, "tokens of query and passage in the compressor; none = --text_maxlength (new)"
    )
    lr_compressor: float = flag(5e-5, "learning rate of the compressor (new)")
    distill_kl_weight: float = flag(
        0.0, "weight of the token KL to the same reader on whole passages; 0 = no (new)"
    )
    rerank_target: Literal["none", "file", "reader"] = flag(
        "none", "what teaches relevance: reranking_scores of the lines, or the reader (new)"
    )
    rerank_weight: float = flag(0.05, "weight of what relevance learns (new)")
    rerank_by_compressor: int = flag(
        0, "evaluation: compress so many passages, read the most relevant; 0 = no (new)"
    )


NEEDS_COMPRESSOR = ("distill_kl_weight", "rerank_target", "rerank_by_compressor")
"""Flags that ask for something only a compressor does; the others say what it is like."""


def compressor_rules(options: Options) -> Iterator[str]:
    """What cannot be asked of a compressor."""
    asked, data = options.compressor, options.data
    kind = asked.compressor
    has_one = kind not in (None, "none") or (
        kind is None and options.experiment.model_path != "none"
    )
    defaults = {each.name: each.default for each in flags_of(CompressorOptions)}
    for name in NEEDS_COMPRESSOR:
        value = getattr(asked, name)
        if value != defaults[name] and not has_one:
            yield f"--{name} ({value}) must come with --compressor"
    if kind == "encoder" and asked.compressor_model_path is None:
        yield "--compressor_model_path is required with --compressor encoder"
    if kind not in (None, "none"):
        if data.closed_book:
            yield f"--compressor ({kind}) must not come with --closed_book: there are no passages"
        if options.task.task == DENSE or options.retriever.retrieve_only:
            yield f"--compressor ({kind}) must come with a reader"
    if asked.rerank_target == "file" and not data.use_file_passages:
        yield (
            "--rerank_target (file) must come with --use_file_passages, whose lines may hold"
            " reranking_scores"
        )
    kept = options.reader.n_context
    if 0 < asked.rerank_by_compressor < kept:
        yield (
            f"--rerank_by_compressor ({asked.rerank_by_compressor}) must be at least --n_context"
            f" ({kept}), which are kept of them"
        )


def compressor_remarks(options: Options) -> Iterator[str]:
    """Flags that do nothing here."""
    asked = options.compressor
    has_none = asked.compressor == "none" or (
        asked.compressor is None and options.experiment.model_path == "none"
    )
    unused = {
        "compressor_model_path": asked.compressor != "encoder",
        "compressor_layers": asked.compressor != "n_layers",
    }
    for each in flags_of(CompressorOptions):
        value = getattr(asked, each.name)
        if each.name == "compressor" or value == each.default:
            continue
        if has_none:
            yield f"{each.name} {value}: no effect without compressor"
        elif unused.get(each.name) and asked.compressor is not None:
            yield f"{each.name} {value}: no effect with compressor {asked.compressor}"
