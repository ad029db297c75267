"""Losses: pure functions, tensors in, scalar out, float32. Which one is a name in a table.

What the reader must be asked before a retriever loss can be computed is in its table entry;
asking is the business of `gazetteer.reader`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from gazetteer.losses.attention import attention_distillation_loss
from gazetteer.losses.leave_one_out import leave_one_out_distillation_loss
from gazetteer.losses.marginal import sequence_marginal_loss, token_marginal_loss
from gazetteer.losses.perplexity import perplexity_distillation_loss
from gazetteer.losses.reader import IGNORED_LABEL, reader_loss, target_mask_of

__all__ = [
    "IGNORED_LABEL",
    "RETRIEVER_LOSSES",
    "RetrieverLoss",
    "SignalKind",
    "attention_distillation_loss",
    "leave_one_out_distillation_loss",
    "perplexity_distillation_loss",
    "reader_loss",
    "sequence_marginal_loss",
    "target_mask_of",
    "token_marginal_loss",
]

SignalKind = Literal["log_likelihoods", "attention_scores", "losses_without", "token_log_probs"]
"""What the reader is asked: the first three are (query, passage), the last also has target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverLoss:
    """One way to teach the retriever, and what it needs.

    Attributes:
        function: the loss; takes retriever scores, the reader's signal, and what `needs` names.
        signal: which question to put to the reader, with each passage alone or hidden.
        needs: keyword arguments of `function` beyond `retriever_temperature`.
        has_vocabulary_temperature: the reader's temperature divides the vocabulary logits that
            the signal is computed from, and is no argument of the loss.
    """

    function: Callable[..., Tensor]
    signal: SignalKind
    needs: tuple[str, ...]
    has_vocabulary_temperature: bool = False

    def __call__(
        self,
        retriever_scores: Tensor,
        reader_signal: Tensor,
        *,
        retriever_temperature: float,
        reader_temperature: float,
        target_mask: Tensor | None = None,
        token_count: Tensor | float | None = None,
        query_count: Tensor | float | None = None,
    ) -> Tensor:
        """Compute the loss, passing on only what it needs.

        Args:
            retriever_scores: (query, passage), divided by sqrt(embedding dim). Carries gradient.
            reader_signal: as `signal` says. Treated as a constant.
            retriever_temperature: > 0. Set by `--temperature_score`.
            reader_temperature: > 0. Set by `--temperature_gold`.
            target_mask: (query, target), True where the label counts; for token_log_probs.
            token_count: divisor of token averages, see `reader.average_over_tokens`.
            query_count: of averages over queries, see `contrastive.average_over_queries`.

        Returns:
            Scalar, float32.
        """
        available: dict[str, Any] = {
            "reader_temperature": reader_temperature,
            "target_mask": target_mask,
            "token_count": token_count,
            "query_count": query_count,
        }
        return self.function(
            retriever_scores,
            reader_signal,
            retriever_temperature=retriever_temperature,
            **{name: available[name] for name in self.needs},
        )


_PERPLEXITY = RetrieverLoss(
    function=perplexity_distillation_loss,
    signal="log_likelihoods",
    needs=("reader_temperature", "query_count"),
)
_ATTENTION = RetrieverLoss(
    function=attention_distillation_loss,
    signal="attention_scores",
    needs=("reader_temperature", "query_count"),
)

RETRIEVER_LOSSES: dict[str, RetrieverLoss] = {
    "ppmean": _PERPLEXITY,
    "pdist": _PERPLEXITY,
    "evalnormsum": _ATTENTION,
    "adist": _ATTENTION,
    "loop": RetrieverLoss(
        function=leave_one_out_distillation_loss,
        signal="losses_without",
        needs=("reader_temperature", "query_count"),
    ),
    "emdr": RetrieverLoss(
        function=token_marginal_loss,
        signal="token_log_probs",
        needs=("target_mask", "token_count"),
        has_vocabulary_temperature=True,
    ),
    "emdr2": RetrieverLoss(
        function=sequence_marginal_loss,
        signal="token_log_probs",
        needs=("target_mask", "query_count"),
    ),
}
"""Values of `--gold_score_mode`: Atlas's names, and the paper's for the same loss."""
