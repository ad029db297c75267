"""What a cross-encoder does beside its transformer: scores a first token, and joins two texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from gazetteer.errors import CheckpointError
from gazetteer.lead.cross_encoder import Head, PairFormat

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


def head_of(encoder: CrossEncoder) -> Head:
    """What makes a score of the first token's state, for use on any layer.

    Raises:
        CheckpointError: it needs more than that state.
    """
    modules = list(encoder)
    kinds = [type(module).__name__ for module in modules]
    if kinds == ["Transformer", "Pooling", "Dense"] and modules[1].pooling_mode == "cls":
        dense: Any = modules[2]
        return lambda states: dense.activation_function(dense.linear(states))
    classifier = getattr(modules[0].model, "classifier", None) if len(kinds) == 1 else None
    if isinstance(classifier, nn.Linear):
        return _pooled_head(modules[0].model, classifier)
    if classifier is not None:
        # RoBERTa and ELECTRA: the head takes all states and looks at the first.
        return lambda states: classifier(states.unsqueeze(1))
    raise CheckpointError(
        f"a cross-encoder made of {', '.join(kinds)} does not score its first token: its layers "
        "cannot be scored by themselves"
    )


def _pooled_head(model: Any, classifier: nn.Linear) -> Head:  # noqa: ANN401 - of transformers
    pooler = getattr(model.base_model, "pooler", None)
    if pooler is not None:  # BERT
        dropout = getattr(model, "dropout", nn.Identity())
        return lambda states: classifier(dropout(pooler(states.unsqueeze(1))))
    before = getattr(model, "pre_classifier", None)
    if before is not None:  # DistilBERT

        def score(states: Tensor) -> Tensor:
            return classifier(model.dropout(before(states).relu()))

        return score
    raise CheckpointError(f"the head of a {model.config.model_type} cannot score single layers")


def pair_format(tokenizer: PreTrainedTokenizerBase) -> PairFormat:
    """How the tokenizer joins two texts, learned from an example of it."""
    first, second = (list(tokenizer(text).input_ids) for text in ("a", "b"))
    pair = tokenizer("a", "b")
    ids = list(pair.input_ids)
    rest = ids[len(first) :]
    if ids[: len(first)] != first or rest[len(rest) - len(second) + 1 :] != second[1:]:
        # No template for pairs: LEAD's way, which is BERT's.
        return PairFormat()
    between = tuple(rest[: len(rest) - len(second) + 1])
    return PairFormat(between, has_types=1 in pair.get("token_type_ids", ()))
