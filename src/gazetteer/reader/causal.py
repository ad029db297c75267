"""The decoder-only reader: a causal language model with its passages in front of the answer.

    [prefix] [context: passages, or soft tokens in their place] [question] [answer]

The question stands in the decoder prompt, after the context, so that a context is the same whatever
is asked of it. Stock transformers models: all the reader adds is where vectors stand.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from gazetteer.reader.base import GenerationSettings, Reader
from gazetteer.reader.states import EncodedPassages, FusedStates, length_table
from gazetteer.reader.words import OWN_WORDS, ReaderWords
from gazetteer.records import TokenIds


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalPrompt:
    """The words around passages and answer.

    Attributes:
        prefix: ids before the first passage, at least one.
        end_ids: an answer ends with the first of them.
        pad_id: fills rows up.
        passage_format: what is read of a passage.
        question_format: what follows the passages.
        words: as flags gave them, to be saved with the model.
    """

    prefix: tuple[int, ...]
    end_ids: tuple[int, ...]
    pad_id: int
    passage_format: str
    question_format: str
    words: ReaderWords = OWN_WORDS


class CausalReader(Reader):
    """A causal language model over retrieved passages.

    Args:
        model: any `AutoModelForCausalLM` that takes `inputs_embeds` and `logits_to_keep`.
        prompt: the words around.
    """

    def __init__(self, model: PreTrainedModel, prompt: CausalPrompt) -> None:
        super().__init__()
        assert prompt.prefix, "the first word of an answer needs something before it"
        self.model = model
        self.prompt = prompt
        # Models without rotary or learned places work them out of the mask.
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.weight.device

    @property
    def width(self) -> int:
        """Length of an input embedding."""
        return self._embedding.weight.shape[1]

    @property
    def vocab_size(self) -> int:
        """Number of output tokens."""
        return self._embedding.weight.shape[0]

    @property
    def decoder_start_id(self) -> int:
        """Holds the place of the context in decoder inputs; it is never read."""
        return self.prompt.pad_id

    def encode(self, inputs: Sequence[Sequence[TokenIds]]) -> EncodedPassages:
        """Input embeddings of every token of every passage, with gradient."""
        lengths = length_table(inputs)
        flat = lengths.reshape(-1)
        pieces = [np.asarray(ids, dtype=np.int64) for passages in inputs for ids in passages]
        tokens = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
        starts = (np.cumsum(flat) - flat).reshape(lengths.shape)
        ids = torch.from_numpy(tokens).to(self.device, non_blocking=True)
        return EncodedPassages(self._embedding(ids), starts, lengths)

    def decode(
        self,
        context: FusedStates,
        decoder_input_ids: Int[Tensor, "sequence target"],
        mask: Bool[Tensor, "sequence token"] | None = None,
    ) -> Float[Tensor, "sequence target vocab"]:
        """Logits of each target token, the first of them after prefix and context."""
        following = self._embedding(decoder_input_ids[:, 1:])
        count = following.shape[1]
        states, real = self._in_one(context, following, np.full(len(following), count), mask)
        return self.model(
            inputs_embeds=states,
            logits_to_keep=count + 1,
            use_cache=False,
            # Without padding, attention needs no mask, and takes its fastest kernels.
            **({} if real is None else self._padding(real)),
        ).logits

    @torch.no_grad()
    def generate(
        self,
        context: FusedStates,
        settings: GenerationSettings,
        prompts: Sequence[Sequence[int]] = (),
    ) -> list[list[int]]:
        """As `Reader.generate`; lengths count the start token, but no prompt: it is the question.

        The prompt is read together with the context, so only the answer is decoded token by token.
        """
        given = prompts or [()] * len(context.mask)
        longest = max((len(ids) for ids in given), default=0)
        table = torch.full((len(given), longest), self.prompt.pad_id)
        for row, ids in enumerate(given):
            table[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        counts = np.array([len(ids) for ids in given], dtype=np.int64)
        states, real = self._in_one(context, self._embedding(table.to(self.device)), counts)
        if real is None:
            real = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        model: Any = self.model  # Which transformers does not say can generate.
        generated = model.generate(
            inputs_embeds=states,
            attention_mask=real.long(),
            generation_config=GenerationConfig(
                max_new_tokens=max(settings.max_length - 1, 1),
                min_new_tokens=max((settings.min_length or 0) - 1, 0),
                num_beams=settings.num_beams,
                length_penalty=settings.length_penalty,
                do_sample=False,
                early_stopping=False,
                pad_token_id=self.prompt.pad_id,
                eos_token_id=list(self.prompt.end_ids),
            ),
        )
        return generated.tolist()

    def _padding(self, real: Bool[Tensor, "sequence token"]) -> dict[str, Tensor]:
        """What tells the model of padding: a mask, and places counted without it, from 0."""
        told = {"attention_mask": real.long()}
        if self._takes_positions:
            told["position_ids"] = (real.long().cumsum(dim=1) - 1).clamp_min(0)
        return told

    @property
    def _embedding(self) -> torch.nn.Embedding:
        return self.model.get_input_embeddings()  # type: ignore[return-value]

    def _in_one(
        self,
        context: FusedStates,
        following: Float[Tensor, "sequence more dim"],
        counts: np.ndarray,
        mask: Bool[Tensor, "sequence token"] | None = None,
    ) -> tuple[Float[Tensor, "sequence all dim"], Bool[Tensor, "sequence all"] | None]:
        """Prefix, context and what follows as one sequence each, padded on the left.

        Rows end together: what follows the context stands at the same places in all of them. What
        is padding is worked out on the host, so that no GPU is waited for.

        Args:
            context: of each sequence.
            following: after the context, padded at its end.
            counts: vectors of each sequence in `following`; host, int64.
            mask: hides some of the context; None hides nothing.

        Returns:
            The sequences, and where a vector stands; None: everywhere.
        """
        rows = len(context.mask)
        prefix = torch.tensor(self.prompt.prefix, device=self.device)
        before = self._embedding(prefix).expand(rows, -1, -1)
        states = torch.cat([before, context.states.to(before.dtype), following], dim=1)
        pieces = (
            (before.shape[1], np.full(rows, before.shape[1])),
            (context.states.shape[1], context.lengths),
            (following.shape[1], counts),
        )
        host = np.concatenate([np.arange(width) < some[:, None] for width, some in pieces], axis=1)
        if mask is not None:
            real = torch.from_numpy(host).to(states.device, non_blocking=True)
            start = before.shape[1]
            real[:, start : start + mask.shape[1]] &= mask
            # A stable sort moves padding to the front and leaves everything else in its order.
            order = real.to(torch.uint8).argsort(dim=1, stable=True)
            return _in_order(states, order), real.gather(1, order)
        longest = int(host.sum(axis=1).max(initial=0))
        placed = host.argsort(axis=1, kind="stable")[:, host.shape[1] - longest :]
        kept = np.take_along_axis(host, placed, axis=1)
        order = torch.from_numpy(placed).to(states.device, non_blocking=True)
        if kept.all():
            return _in_order(states, order), None
        return _in_order(states, order), torch.from_numpy(kept).to(states.device, non_blocking=True)


def _in_order(
    states: Float[Tensor, "sequence all dim"], order: Int[Tensor, "sequence kept"]
) -> Float[Tensor, "sequence kept dim"]:
    return states.gather(1, order.unsqueeze(2).expand(-1, -1, states.shape[2]))
