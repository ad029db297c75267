"""Options -> mining in the loop: an index, still empty, and who mines in it."""

from __future__ import annotations

from gazetteer import build
from gazetteer.build_search import Retrieving, build_retrieving
from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import SpecialTokens
from gazetteer.data_files import shows_progress
from gazetteer.dense.batches import DenseBatches
from gazetteer.dense.distillation import LeadBatches
from gazetteer.dense.mining import MiningSettings, NegativeMiner
from gazetteer.options import Options
from gazetteer.records import Ranks


def build_mining(
    options: Options,
    ranks: Ranks,
    models: build.Models,
    passages: PassageStore | None,
    batches: DenseBatches | LeadBatches,
) -> tuple[Retrieving | None, NegativeMiner | None]:
    """What `--mine_negatives` needs; None and None without.

    Collective: every rank must call this.

    Args:
        options: of the run.
        ranks: this process among its peers.
        models: with a retriever.
        passages: negatives are among these.
        batches: use what is mined.
    """
    mining, tokenizer = options.mining, models.retriever_tokenizer
    if not mining.mine_negatives:
        return None, None
    assert models.retriever is not None and tokenizer is not None
    retrieving = build_retrieving(
        options, ranks, models.retriever, tokenizer, passages, filters=False
    )
    assert retrieving is not None, "option rules require --passages or --load_index_path"
    settings = MiningSettings(
        negatives=mining.mine_negatives,
        depth=mining.mine_depth,
        margin=mining.mine_margin,
        new_texts=mining.mine_new_texts,
        memory=mining.mine_memory,
        seed=options.experiment.seed,
        query_tokens=options.dense.q_max_len,
    )
    miner = NegativeMiner(
        retrieving.keeper.index,
        models.retriever,
        batches.lines,
        retrieving.tokens,
        SpecialTokens.of(tokenizer),
        settings,
        batches.use_negatives,
        folder=options.experiment.folder,
        ranks=ranks,
        show_progress=shows_progress(options, ranks),
    )
    return retrieving, miner
