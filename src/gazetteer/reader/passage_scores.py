"""Which passages helped the reader: the signals that teach the retriever.

One function per signal; all run without gradient, in whatever mode (train or eval) the reader is
in. The losses that consume them are in `gazetteer.losses`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gazetteer.reader.attention import (
    CrossAttention,
    passage_attention,
    passage_attention_by_layer,
    record_cross_attention,
)
from gazetteer.reader.base import Reader
from gazetteer.reader.fusion import FusionReader, sequence_chunks
from gazetteer.reader.states import EncodedPassages
from gazetteer.records import Targets


@torch.no_grad()
def passage_token_log_probs(
    reader: Reader, encoded: EncodedPassages, targets: Targets, *, temperature: float = 1.0
) -> Float[Tensor, "query passage target"]:
    """Log-probability of each target token when the reader sees one passage alone.

    Args:
        reader: the reader.
        encoded: passages of each query.
        targets: what should be produced.
        temperature: divides the vocabulary logits (Atlas's emdr does this; 1 leaves them).

    Returns:
        float32; 0 at tokens that do not count.
    """
    queries, passages = encoded.lengths.shape
    context = encoded.apart()
    labels = targets.labels.repeat_interleave(passages, dim=0)
    inputs = targets.decoder_input_ids.repeat_interleave(passages, dim=0)
    parts = list(sequence_chunks(len(labels), labels.shape[1], reader.vocab_size))
    chunks = [
        label_log_probs(reader.decode(context.rows(part), inputs[part]) / temperature, labels[part])
        for part in parts
    ]
    for _ in range(reader.calls_to_add(len(parts))):
        reader.decode(context.rows(slice(0, 1)), inputs[:1])
    return torch.cat(chunks).view(queries, passages, -1)


def passage_log_likelihoods(
    reader: Reader, encoded: EncodedPassages, targets: Targets
) -> Float[Tensor, "query passage"]:
    """Mean log-probability per target token given one passage alone (perplexity distillation)."""
    log_probs = passage_token_log_probs(reader, encoded, targets)
    return log_probs.sum(dim=-1) / targets.token_counts.unsqueeze(1)


@torch.no_grad()
def leave_one_out_nll(
    reader: Reader, encoded: EncodedPassages, targets: Targets
) -> Float[Tensor, "query passage"]:
    """Mean negative log-likelihood of the target with one passage hidden from the decoder.

    The passages are encoded once; hiding one is a cross-attention mask. Larger means the passage
    was needed more (leave-one-out distillation).
    """
    queries, passages = encoded.lengths.shape
    context = encoded.fused()
    columns = []
    for _ in range(reader.calls_to_add(passages)):
        reader.decode(context, targets.decoder_input_ids)
    for index in range(passages):
        mask = _without(context.mask, context.passage, index)
        logits = reader.decode(context, targets.decoder_input_ids, mask=mask)
        nll = -label_log_probs(logits, targets.labels).sum(dim=-1)
        columns.append(nll / targets.token_counts)
    return torch.stack(columns, dim=1).view(queries, passages)


@torch.no_grad()
def passage_attention_scores(
    reader: FusionReader, encoded: EncodedPassages, targets: Targets
) -> Float[Tensor, "query passage"]:
    """Cross-attention each passage receives while the target is decoded over all of them."""
    return passage_attention(
        *_recorded(reader, encoded, targets), targets.mask, passages=encoded.lengths.shape[1]
    )


@torch.no_grad()
def layer_attention_scores(
    reader: FusionReader, encoded: EncodedPassages, targets: Targets
) -> Float[Tensor, "layer query passage"]:
    """The same, decoder layer by decoder layer."""
    return passage_attention_by_layer(
        *_recorded(reader, encoded, targets), targets.mask, passages=encoded.lengths.shape[1]
    )


def _recorded(
    reader: FusionReader, encoded: EncodedPassages, targets: Targets
) -> tuple[CrossAttention, Tensor, Tensor]:
    """Cross-attention of one decoding, the mask of its context, and the passage of each token."""
    context = encoded.fused()
    with record_cross_attention(reader.model) as recorded:
        reader.decode(context, targets.decoder_input_ids)
    return recorded, context.mask, context.passage


def _without(
    mask: Bool[Tensor, "sequence token"], passage: Int[Tensor, "sequence token"], index: int
) -> Bool[Tensor, "sequence token"]:
    """Hide one passage; a sequence that has no other keeps it, since nothing may be all hidden."""
    rest = mask & (passage != index)
    return torch.where(rest.any(dim=1, keepdim=True), rest, mask)


def label_log_probs(
    logits: Float[Tensor, "sequence target vocab"], labels: Int[Tensor, "sequence target"]
) -> Float[Tensor, "sequence target"]:
    """Log-softmax at the labels without keeping the whole log-softmax; 0 where label is -100."""
    counts = labels != -100
    logits = logits.float()
    at_label = logits.gather(2, labels.clamp_min(0).unsqueeze(2)).squeeze(2)
    return (at_label - logits.logsumexp(dim=-1)).masked_fill(~counts, 0.0)
