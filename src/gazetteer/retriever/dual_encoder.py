"""The retriever: a query tower and a passage tower, tied or not.

Tied towers are one module under two names. Untied towers are true copies; with query-side training
the passage tower is frozen, so that an index embedded once stays valid.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gazetteer.adapters import adapter_scale
from gazetteer.modes import evaluation_mode
from gazetteer.records import TokenIds
from gazetteer.retriever.encoder import EmbeddingBatch, TextEncoder, embed


class DualEncoder(nn.Module):
    """Query tower and passage tower.

    Args:
        query_tower: embeds queries.
        passage_tower: embeds passages; the same object as `query_tower` when tied.
        batch: limits of one encoder call.
    """

    def __init__(
        self, query_tower: TextEncoder, passage_tower: TextEncoder, batch: EmbeddingBatch
    ) -> None:
        super().__init__()
        self.query_tower = query_tower
        self.passage_tower = passage_tower
        self.batch = batch
        self.passage_tower_frozen = False
        self.query_tower_frozen = False

    @property
    def is_tied(self) -> bool:
        """True when both towers share one set of weights."""
        return self.query_tower is self.passage_tower

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding."""
        return self.passage_tower.embedding_dim

    def untie(self) -> None:
        """Give the passage tower weights of its own (no effect if it has them)."""
        if self.is_tied:
            self.passage_tower = copy.deepcopy(self.query_tower)

    def freeze_passage_tower(self) -> None:
        """Query-side training: untie, then keep the passage tower constant and in eval mode.

        Source: Atlas section 2.4, "query-side fine-tuning" (arXiv:2208.03299). The release ties
        the towers by mistake; here they are separate (docs/decisions).
        """
        self.untie()
        self.passage_tower.requires_grad_(False)
        self.passage_tower_frozen = True
        self.train(self.training)

    def freeze_query_tower(self) -> None:
        """Untie, then keep the query tower constant and in eval mode."""
        self.untie()
        self.query_tower.requires_grad_(False)
        self.query_tower_frozen = True
        self.train(self.training)

    @property
    def learning_towers(self) -> list[TextEncoder]:
        """The towers that are not frozen, each once."""
        towers = [] if self.query_tower_frozen else [self.query_tower]
        if not (self.passage_tower_frozen or self.is_tied):
            towers.append(self.passage_tower)
        return towers

    def train(self, mode: bool = True) -> DualEncoder:
        """Set training mode; a frozen tower stays in evaluation mode."""
        super().train(mode)
        if self.passage_tower_frozen:
            self.passage_tower.eval()
        if self.query_tower_frozen:
            self.query_tower.eval()
        return self

    def embed_queries(self, token_lists: Sequence[TokenIds]) -> Float[Tensor, "query dim"]:
        """Embeddings of queries, with gradient unless under `torch.no_grad`."""
        return embed(self.query_tower, token_lists, self.batch)

    def embed_passages(self, token_lists: Sequence[TokenIds]) -> Float[Tensor, "passage dim"]:
        """Embeddings of passages, with gradient unless frozen or under `torch.no_grad`."""
        return embed(self.passage_tower, token_lists, self.batch)

    @torch.no_grad()
    def embed_for_search(self, token_lists: Sequence[TokenIds]) -> Float[Tensor, "query dim"]:
        """Embeddings of queries in evaluation mode, without gradient, as Atlas searches."""
        with evaluation_mode(self.query_tower):
            return self.embed_queries(token_lists).float()

    @torch.no_grad()
    def embed_for_index(self, token_lists: Sequence[TokenIds]) -> Float[Tensor, "passage dim"]:
        """Embeddings of passages in evaluation mode, without gradient, float32."""
        with evaluation_mode(self.passage_tower):
            return self.embed_passages(token_lists).float()


def tower_fingerprint(tower: TextEncoder) -> str:
    """Stands for all weights of a tower: model, and head and adapters where it has them.

    A tower with the model alone has the model's own fingerprint.
    """
    tensors = dict(tower.model.state_dict())
    if tower.head is not None:
        tensors |= {f"head.{name}": tensor for name, tensor in tower.head.state_dict().items()}
    scale = adapter_scale(tower.model)
    if scale is not None:
        tensors["adapter.scale"] = torch.tensor([scale])
    return _fingerprint(tensors)


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of every weight, in name order."""
    return _fingerprint(module.state_dict())


def _fingerprint(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)};".encode())
        digest.update(data.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
