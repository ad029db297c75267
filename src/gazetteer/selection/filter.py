"""Drop hits a query must not see, such as the passage it was made from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from gazetteer.records import Hits

logger = logging.getLogger(__name__)


def forbidden_hits(
    hits: Hits, forbidden: Sequence[str | None], passage_ids: Callable[[np.ndarray], list[str]]
) -> Bool[Tensor, "query hit"]:
    """True where a hit's id is the one its query must not see."""
    marks = torch.zeros(hits.rows.shape, dtype=torch.bool)
    for position, banned in enumerate(forbidden):
        if banned is not None:
            ids = passage_ids(hits.rows[position].numpy())
            marks[position] = torch.tensor([passage_id == banned for passage_id in ids])
    return marks


def drop_hits(hits: Hits, is_forbidden: Bool[Tensor, "query hit"], top_k: int) -> Hits:
    """The best top_k allowed hits of each query.

    Where fewer than top_k are allowed, forbidden ones fill up the end, with a warning, as Atlas
    does: every query keeps the same number of passages.
    """
    wanted = min(top_k, hits.rows.shape[1])
    short = ((~is_forbidden).sum(dim=1) < wanted).sum().item()
    if short:
        logger.warning(
            "%d queries have fewer than %d allowed passages; forbidden ones fill up "
            "(raise --filtering_overretrieve_ratio)",
            short,
            wanted,
        )
    # Stable: allowed before forbidden, each in their order of score.
    order = is_forbidden.to(torch.int8).argsort(dim=1, stable=True)[:, :wanted]
    return Hits(hits.rows.gather(1, order), hits.scores.gather(1, order))
