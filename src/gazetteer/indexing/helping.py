"""What a process set aside does with an order: it embeds its share of the pieces."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import PassageTokens
from gazetteer.errors import IndexFileError
from gazetteer.index import identity_mismatches
from gazetteer.indexing.chunks import ChunkFolder
from gazetteer.indexing.identity import identity_of, version_key
from gazetteer.indexing.orders import Order
from gazetteer.modes import evaluation_mode
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder
from gazetteer.retriever.encoder import embed

logger = logging.getLogger(__name__)


@torch.no_grad()
def carry_out(
    order: Order,
    retriever: DualEncoder,
    corpus: PassageStore,
    tokens: PassageTokens,
    ranks: Ranks,
    is_over: Callable[[], bool],
) -> None:
    """Embed this process's pieces of an order and write them where the trainers look.

    Not a collective.

    Args:
        order: from rank 0.
        retriever: its passage tower embeds, loaded from the order's folder.
        corpus: the passages.
        tokens: the retriever's tokens of them.
        ranks: this process among those set aside.
        is_over: asked between two pieces; True ends it early.

    Raises:
        IndexFileError: the vectors would be made from something else, or cannot be written.
    """
    tower = retriever.passage_tower
    mismatches = identity_mismatches(identity_of(tower, corpus, tokens), order.identity)
    if mismatches:
        raise IndexFileError(f"{order.folder}: not what was ordered ({'; '.join(mismatches)})")
    chunks = ChunkFolder(order.folder, version_key(order.identity), tower.embedding_dim)
    with evaluation_mode(tower):
        for rows in order.missing[ranks.rank :: ranks.world_size]:
            if is_over():
                return
            vectors = embed(tower, tokens.passage_inputs(rows), retriever.batch)
            problem: OSError | None = None
            try:
                chunks.write(rows.start, vectors.float())
            except OSError as error:
                problem = error
            if not chunks.is_wanted:
                chunks.remove()
                return
            if problem is not None:
                raise IndexFileError(
                    f"{chunks.path}: cannot be written ({problem.strerror}) (--checkpoint_dir)"
                )
