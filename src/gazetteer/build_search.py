"""Options -> what searches: tokens of the corpus, an index still empty, and who fills it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gazetteer.data.marked_templates import MarkedTemplate
from gazetteer.data.passages import PassageStore
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import PassageTokens
from gazetteer.data_files import shows_progress
from gazetteer.distributed.agreement import build_main_first
from gazetteer.index import ShardedIndex
from gazetteer.index.codec import CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.making import FlatMaker, ShardMaker
from gazetteer.indexing import IndexFiles, IndexKeeper, RefreshPlan, StalenessMeter
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder
from gazetteer.selection import Selector

RETRIEVER_MAX_TOKENS = 512
"""BERT's positions; Atlas caps the retriever's inputs there."""
REFRESH_FOLDER = "refresh"
"""Of an experiment: what is embedded of an index that is not whole yet."""
VECTORS_FOLDER = "vectors"
"""In the cache; a compressed index keeps its vectors there, in files that go with the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieving:
    """What a run that searches has.

    Attributes:
        corpus: the passages.
        tokens: the retriever's tokens of them.
        selector: searches, filters, re-ranks.
        keeper: fills and refreshes the index.
        meter: measures how stale it is; None where nobody asked.
    """

    corpus: PassageStore
    tokens: PassageTokens
    selector: Selector
    keeper: IndexKeeper
    meter: StalenessMeter | None


def retriever_max_tokens(options: Options) -> int:
    """Tokens the retriever sees of a query or passage."""
    return min(options.reader.text_maxlength, RETRIEVER_MAX_TOKENS)


def retriever_template(options: Options) -> PassageTemplate:
    """What the retriever embeds of a passage: `--doc_template`, or `--retriever_format`."""
    marked = options.dense.doc_template
    if marked is not None:
        return MarkedTemplate.parse_marked(marked)
    return PassageTemplate.parse(options.reader.retriever_format)


def build_retrieving(
    options: Options,
    ranks: Ranks,
    retriever: DualEncoder | None,
    tokenizer: PreTrainedTokenizerBase | None,
    corpus: PassageStore | None,
    *,
    filters: bool,
) -> Retrieving | None:
    """Tokens of the corpus, an index still empty, and who fills it; None where nothing is searched.

    Collective: every rank must call this.

    Args:
        options: of the run.
        ranks: this process among its peers.
        retriever: None where nothing is searched.
        tokenizer: the retriever's.
        corpus: likewise.
        filters: some passages are forbidden to some queries.
    """
    if retriever is None or corpus is None:
        return None
    assert tokenizer is not None
    tokens = build_passage_tokens(
        options,
        ranks,
        corpus,
        tokenizer,
        retriever_template(options),
        retriever_max_tokens(options),
    )
    maker = _shard_maker(options, ranks, corpus.count, retriever.embedding_dim)
    index = ShardedIndex(corpus.count, ranks, build_shard=maker)
    keeper = IndexKeeper(
        index=index,
        retriever=retriever,
        tokenizer=tokenizer,
        corpus=corpus,
        tokens=tokens,
        files=_index_files(options),
        refresh=RefreshPlan(options.index.refresh_mode, options.index.refresh_steps),
        maker=maker,
        ranks=ranks,
        show_progress=shows_progress(options, ranks),
    )
    selector = Selector(
        retriever=retriever,
        index=index,
        corpus=corpus,
        passage_tokens=tokens,
        over_retrieval=options.retriever.filtering_overretrieve_ratio if filters else None,
        candidates=options.retriever.n_to_rerank_with_retrieve_with_rerank
        if options.retriever.retrieve_with_rerank
        else None,
    )
    meter = None
    if options.index.staleness_sample:
        meter = StalenessMeter(
            index,
            retriever,
            tokens,
            sample=options.index.staleness_sample,
            top_k=options.retriever.retriever_n_context,
        )
    return Retrieving(corpus=corpus, tokens=tokens, selector=selector, keeper=keeper, meter=meter)


def _shard_maker(options: Options, ranks: Ranks, count: int, dim: int) -> ShardMaker:
    settings, folder = codec_settings(options), options.data.cache_folder / VECTORS_FOLDER
    if settings is None:
        dtype = options.index.index_dtype
        return FlatMaker(dtype, count=count, dim=dim, ranks=ranks, folder=folder)
    return Compressor(
        settings,
        count=count,
        dim=dim,
        ranks=ranks,
        folder=folder,
        show_progress=shows_progress(options, ranks),
    )


def codec_settings(options: Options) -> CodecSettings | None:
    """The flags of compressed indexes; None with `--index_mode flat`."""
    index = options.index
    if index.index_mode == "flat":
        return None
    return CodecSettings(
        kind=index.faiss_index_type,
        code_size=index.faiss_code_size,
        nlist=index.faiss_nlist,
        nprobe=index.faiss_nprobe,
        rescore=index.rescore,
    )


def _index_files(options: Options) -> IndexFiles:
    load, save = options.index.load_index_path, options.index.save_index_path
    return IndexFiles(
        load_folder=Path(load) if load else None,
        save_folder=Path(save) if save else None,
        files=options.index.save_index_n_shards,
        allow_stale=options.index.allow_stale_index,
        refresh_folder=options.experiment.folder / REFRESH_FOLDER,
    )


def build_passage_tokens(
    options: Options,
    ranks: Ranks,
    corpus: PassageStore,
    tokenizer: PreTrainedTokenizerBase,
    template: PassageTemplate,
    max_tokens: int,
    max_passage_tokens: int | None = None,
) -> PassageTokens:
    """Tokens of every passage for one model, built by rank 0 of each machine, mapped by all.

    Collective: every rank must call this.
    """

    def build() -> PassageTokens:
        return PassageTokens(
            corpus,
            tokenizer,
            template,
            max_tokens=max_tokens,
            cache_dir=options.data.cache_folder,
            show_progress=shows_progress(options, ranks),
            max_passage_tokens=max_passage_tokens,
        )

    return build_main_first(build, ranks)
