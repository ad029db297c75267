"""How likely the reader finds each answer of a closed set: one decoder call, no encoder pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.reader.base import Reader
from gazetteer.reader.passage_scores import label_log_probs
from gazetteer.reader.states import FusedStates
from gazetteer.records import Targets


@torch.no_grad()
def candidate_log_likelihoods(
    reader: Reader, context: FusedStates, targets: Targets
) -> Float[Tensor, "query candidate"]:
    """Log-probability of each candidate, summed over its tokens, end token included.

    A sum, not a mean: a mean would favour candidates of many tokens that follow from the first.

    Args:
        reader: in evaluation mode.
        context: fused passages of each query, encoded before.
        targets: the candidates of the first query, then those of the second, ...; the same number
            for each query.

    Returns:
        float32.
    """
    queries = len(context.mask)
    candidates = len(targets.labels) // max(queries, 1)
    logits = reader.decode(context.repeated(candidates), targets.decoder_input_ids)
    return label_log_probs(logits, targets.labels).sum(dim=1).view(queries, candidates)
