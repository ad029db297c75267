"""What every reader is: it encodes passages, and answers over them.

    inputs --encode--> EncodedPassages --fused or apart--> FusedStates --decode, generate--> answer

Losses, signals for the retriever and evaluation know no more of a reader than this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gazetteer.reader.states import EncodedPassages, FusedStates
from gazetteer.records import TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How answers are decoded; the four `--generation_*` flags. No sampling."""

    max_length: int = 128
    min_length: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0


class Reader(nn.Module, ABC):
    """A model that answers from passages: `FusionReader` (T5) or `CausalReader` (decoder-only).

    Attributes:
        model: the stock model of transformers.
        most_calls: the largest of the numbers that ranks give, where each call of the model is a
            collective; None where it is not.
    """

    model: PreTrainedModel
    most_calls: Callable[[int], int] | None = None

    def calls_to_add(self, count: int) -> int:
        """How many calls of the model, besides the `count` that are needed, keep ranks together.

        Collective where weights are spread over ranks: every rank must call this.
        """
        return 0 if self.most_calls is None else self.most_calls(count) - count

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of a vector of the context: what an encoder of passages must give."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of output tokens."""

    @property
    @abstractmethod
    def decoder_start_id(self) -> int:
        """The id that stands for the beginning of every answer."""

    @abstractmethod
    def encode(self, inputs: Sequence[Sequence[TokenIds]]) -> EncodedPassages:
        """Encode every passage of every query once.

        Args:
            inputs: for each query, the token ids of each of its passages. Queries may have
                different numbers of passages.

        Returns:
            States with gradient, unless called under `torch.no_grad`.
        """

    @abstractmethod
    def decode(
        self,
        context: FusedStates,
        decoder_input_ids: Int[Tensor, "sequence target"],
        mask: Bool[Tensor, "sequence token"] | None = None,
    ) -> Float[Tensor, "sequence target vocab"]:
        """Logits of each target token given the context.

        Args:
            context: of each sequence.
            decoder_input_ids: `decoder_start_id`, then the target without its last token.
            mask: replaces the context's own.
        """

    @abstractmethod
    def generate(
        self,
        context: FusedStates,
        settings: GenerationSettings,
        prompts: Sequence[Sequence[int]] = (),
    ) -> list[list[int]]:
        """Decode one answer per sequence, greedily or by beam search; no gradient.

        Args:
            context: fused passages of each query. The reader is in evaluation mode.
            settings: lengths and beams.
            prompts: ids the answer of each query must begin with; empty for none.

        Returns:
            Token ids of each answer without start token and prompt; special tokens are kept.
        """

    def shift_right(self, tokens: Int[Tensor, "sequence target"]) -> Int[Tensor, "sequence target"]:
        """Decoder inputs that predict `tokens`: start token first, last token dropped."""
        start = torch.full_like(tokens[:, :1], self.decoder_start_id)
        return torch.cat([start, tokens[:, :-1]], dim=1)
