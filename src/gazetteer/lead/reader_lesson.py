"""The fusion reader as a teacher: its decoder's layers teach the retriever's.

Where a decoder layer looks is a distribution over the passages that were retrieved, as the states
of a retriever's layer are one; so LEAD's terms need no other model than the two that train anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gazetteer.distributed.collectives import all_reduce_mean
from gazetteer.distributed.query_shares import QueryShare
from gazetteer.lead.dual import layer_vectors
from gazetteer.lead.layers import LayerChooser, LayerPairs
from gazetteer.losses.layers import layer_distillation_loss, layer_losses, layer_weights
from gazetteer.records import TokenLists
from gazetteer.retriever import DualEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderLayers:
    """How the retriever's layers learn from the reader's.

    Attributes:
        chooser: which layers are compared.
        layer_temperature: softmax of the weights of layers (`--layer_temperature`); None weighs
            all alike, with 1.
        steps_done: micro-batches before this one, the same on every rank.
    """

    chooser: LayerChooser
    layer_temperature: float | None
    steps_done: Callable[[], int]

    def pairs(self) -> LayerPairs:
        """The layers of this step."""
        return self.chooser.at(self.steps_done())

    def loss(
        self,
        retriever_scores: Float[Tensor, "layer query passage"],
        reader_scores: Float[Tensor, "layer query passage"],
        signal: Float[Tensor, "query passage"],
        *,
        retriever_temperature: float,
        reader_temperature: float,
        share: QueryShare,
    ) -> Float[Tensor, ""]:
        """Pull the retriever's layers towards where the reader's look.

        Collective: every rank must call this.

        Args:
            retriever_scores: of the chosen layers, divided as final scores are. Carries gradient.
            reader_scores: attention in the chosen decoder layers. Treated as a constant.
            signal: what the reader thinks of each passage in all. Its favourite stands for the
                positive, by which layers are weighed, since questions name no passage.
            retriever_temperature: > 0. Set by `--temperature_score`.
            reader_temperature: > 0. Set by `--temperature_gold`.
            share: of the queries; where this rank has none, those given here count as none.

        Returns:
            Scalar, float32, averaged over queries.
        """
        weights = reader_scores.new_ones(len(reader_scores))
        if self.layer_temperature is not None:
            losses = layer_losses(
                reader_scores / reader_temperature,
                signal.argmax(dim=1),
                query_count=share.in_pass,
            )
            weights = layer_weights(
                all_reduce_mean(losses * float(share.mine > 0)),
                layer_temperature=self.layer_temperature,
            )
        return layer_distillation_loss(
            retriever_scores / retriever_temperature,
            reader_scores,
            weights,
            teacher_temperature=reader_temperature,
            query_count=share.mean,
        )


def layer_scores(
    retriever: DualEncoder,
    queries: TokenLists,
    passages: TokenLists,
    places: Int[Tensor, "query passage"],
    layers: tuple[int, ...],
) -> tuple[Float[Tensor, "query passage"], Float[Tensor, "layer query passage"]]:
    """Final scores of a query's passages and those of some layers, from one pass of each tower.

    Args:
        retriever: in whatever mode the caller wants.
        queries: token ids.
        passages: token ids, each passage once.
        places: which of them each query has.
        layers: of the transformer.

    Returns:
        Dot products over the square root of the vectors' length, with gradient.
    """
    query_final, query_layers = layer_vectors(
        retriever.query_tower, queries, retriever.batch, layers
    )
    final, by_layer = layer_vectors(retriever.passage_tower, passages, retriever.batch, layers)
    index = places.flatten().to(final.device)
    found = final.index_select(0, index).view(*places.shape, -1)
    found_layers = by_layer.index_select(0, index).view(*places.shape, *by_layer.shape[1:])
    scores = torch.einsum("qd,qkd->qk", query_final.float(), found.float())
    of_layers = torch.einsum("qld,qkld->lqk", query_layers.float(), found_layers.float())
    return scores / final.shape[-1] ** 0.5, of_layers / by_layer.shape[-1] ** 0.5
