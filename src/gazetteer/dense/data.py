"""What `--task dense` reads, opened and checked to the last line before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gazetteer.build_search import build_passage_tokens, retriever_max_tokens, retriever_template
from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import PassageTokens, SpecialTokens
from gazetteer.data_files import open_corpus, shows_progress
from gazetteer.dense.dev_retrieval import DevCollection
from gazetteer.dense.line_files import LineTexts, cached_lines
from gazetteer.dense.line_store import LineStore
from gazetteer.dense_options import dev_files
from gazetteer.distributed.agreement import build_alike, build_main_first, raise_together
from gazetteer.errors import DataError, GazetteerError, OptionError
from gazetteer.options import Options
from gazetteer.records import Ranks


@dataclass(frozen=True, slots=True)
class DenseData:
    """What a dense run reads.

    Attributes:
        train: lines of `--train_data`.
        evaluations: name and lines of each file of `--eval_data`.
        passages: of `--passages`; None without.
        corpus: their tokens.
        dev: what `--dev_queries` are searched in; None without.
    """

    train: LineStore
    evaluations: tuple[tuple[str, LineStore], ...]
    passages: PassageStore | None
    corpus: PassageTokens | None
    dev: DevCollection | None


def open_data(
    options: Options,
    ranks: Ranks,
    tokenizer: PreTrainedTokenizerBase,
    *,
    embedding_dim: int | None = None,
) -> DenseData:
    """Open everything a run reads, and check it to the last line.

    Collective: every rank must call this.

    Args:
        options: of the run.
        ranks: this process among its peers.
        tokenizer: of the model that reads it.
        embedding_dim: of the model's embeddings; None where it has none.

    Raises:
        GazetteerError: a bad line, or one that the flags cannot use; the same on every rank.
    """
    has_passages = bool(options.data.passages or options.mining.mine_negatives)
    store = open_corpus(options, ranks) if has_passages else None
    limit = retriever_max_tokens(options)
    corpus = None
    if store is not None:
        template = retriever_template(options)
        corpus = build_passage_tokens(options, ranks, store, tokenizer, template, limit)
    texts = LineTexts(
        tokenizer=tokenizer,
        query_template=MarkedTemplate.parse_marked(options.dense.query_template),
        passage_template=retriever_template(options),
        query_tokens=options.dense.q_max_len,
        passage_tokens=limit,
    )
    train = _lines(options, ranks, texts, store, options.data.train_data, "--train_data")
    evaluations = tuple(
        (Path(path).name, _lines(options, ranks, texts, store, [path], "--eval_data"))
        for path in options.data.eval_data
    )
    named = [("--train_data", train), *(("--eval_data", lines) for _, lines in evaluations)]
    problem = next(filter(None, (_unusable(options, lines, flag) for flag, lines in named)), None)
    raise_together(problem or _unfit(options, tokenizer, embedding_dim), ranks)
    return DenseData(train, evaluations, store, corpus, _dev_collection(options, ranks, store))


def _dev_collection(
    options: Options, ranks: Ranks, corpus: PassageStore | None
) -> DevCollection | None:
    dense, seed = options.dense, options.experiment.seed
    if dense.dev_queries is None:
        return None
    assert corpus is not None, "option rules require --passages"
    queries, qrels = dev_files(dense)
    return build_alike(
        lambda: DevCollection.open(queries, qrels, corpus, sample=dense.dev_passages, seed=seed),
        ranks,
    )


def _lines(
    options: Options,
    ranks: Ranks,
    texts: LineTexts,
    corpus: PassageStore | None,
    paths: Sequence[str],
    flag: str,
) -> LineStore:
    def build_lines() -> LineStore:
        return cached_lines(
            [Path(path) for path in paths],
            texts,
            corpus,
            options.data.cache_folder,
            flag=flag,
            on_bad_line=options.data.on_bad_line,
            show_progress=shows_progress(options, ranks),
        )

    return build_main_first(build_lines, ranks)


def _unusable(options: Options, lines: LineStore, flag: str) -> GazetteerError | None:
    """What these lines lack."""
    dense = options.dense
    number = lines.first_line_with_fewer(min(dense.train_n_passages - 1, 1))
    is_mined = options.mining.mine_negatives > 0 and flag == "--train_data"
    if number is not None and not is_mined:
        return DataError(
            f"{flag}: example {number + 1} has no negatives; with --train_n_passages "
            f"({dense.train_n_passages}) above 1 each example needs one"
        )
    number = lines.first_line_without_scores() if is_scored(options) else None
    if number is not None:
        return DataError(
            f"{flag}: example {number + 1} has a passage without a score, which --dense_loss "
            f"{dense.dense_loss} needs"
        )
    return None


def _unfit(
    options: Options, tokenizer: PreTrainedTokenizerBase, embedding_dim: int | None
) -> GazetteerError | None:
    """What the model has no room for."""
    dense, special = options.dense, SpecialTokens.of(tokenizer).count
    for name in ("q_max_len", "p_max_len"):
        limit = getattr(dense, name)
        if limit <= special:
            rule = f"be above {special}, the number of the model's special tokens"
            return OptionError(f"--{name} ({limit}) must {rule}")
    for dim in dense.matryoshka_dims:
        if embedding_dim is not None and dim > embedding_dim:
            rule = f"be at most {embedding_dim}, the length of the model's embeddings"
            return OptionError(f"--matryoshka_dims ({dim}) must {rule}")
    return None


def is_scored(options: Options) -> bool:
    """Whether the loss needs a teacher's scores in the lines."""
    return options.dense.dense_loss != "infonce"
