"""What a process set aside does while the others train: it embeds what they order."""

from __future__ import annotations

from dataclasses import replace

from gazetteer.build_retriever import load_encoders
from gazetteer.build_search import build_passage_tokens, retriever_max_tokens, retriever_template
from gazetteer.compute import use_fast_float32_matmul
from gazetteer.data.passages import PassageStore
from gazetteer.data_files import open_corpus
from gazetteer.distributed.set_aside import current_helper
from gazetteer.distributed.signals import StopRequest
from gazetteer.errors import GazetteerError
from gazetteer.indexing.chunks import ENCODER_FOLDER
from gazetteer.indexing.helping import carry_out
from gazetteer.indexing.orders import Order
from gazetteer.options import Options
from gazetteer.records import Ranks
from gazetteer.reporting import start_log


def embed_for_trainers(options: Options, ranks: Ranks) -> int:
    """Carry out refreshes until the trainers are done.

    Not a collective: the trainers are waited for, nobody else. A signal is left to them: they
    agree to stop, save, and tell this process.

    Args:
        options: as resolved.
        ranks: this process among those set aside.

    Returns:
        Exit code 0, however the trainers end: that is theirs to report.

    Raises:
        GazetteerError: an order cannot be carried out, or the trainers are gone.
    """
    start_log(ranks)
    use_fast_float32_matmul()
    helper = current_helper()
    corpus: PassageStore | None = None
    with StopRequest():
        while (text := helper.next_order()) is not None:
            # Only now: the trainers have built by then what all of them map from the disk.
            corpus = corpus or open_corpus(options, _alone(ranks))
            order = Order.from_json(text)
            try:
                _carry_out(order, options, corpus, ranks)
            except GazetteerError:
                # At the end of training, orders are withdrawn whatever has become of them.
                if order.folder.is_dir():
                    raise
    return 0


def _carry_out(order: Order, options: Options, corpus: PassageStore, ranks: Ranks) -> None:
    retriever, tokenizer = load_encoders(options, ranks, str(order.folder / ENCODER_FOLDER))
    tokens = build_passage_tokens(
        options,
        _alone(ranks),
        corpus,
        tokenizer,
        retriever_template(options),
        retriever_max_tokens(options),
    )
    retriever = retriever.to(ranks.device)
    carry_out(order, retriever, corpus, tokens, ranks, current_helper().is_over)


def _alone(ranks: Ranks) -> Ranks:
    """For what the trainers do together: here nobody else joins in."""
    return replace(ranks, rank=0, world_size=1)
