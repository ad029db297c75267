"""The reader: a T5 that encodes passages apart and decodes over all of them at once.

Stock transformers classes, no vendored model.

Source: fusion in the decoder, arXiv:2007.01282.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, MT5ForConditionalGeneration, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from gazetteer.data.buckets import length_buckets, pad_bucket
from gazetteer.reader.base import GenerationSettings, Reader
from gazetteer.reader.states import EncodedPassages, FusedStates, length_table
from gazetteer.records import TokenIds

T5Model = T5ForConditionalGeneration | MT5ForConditionalGeneration
"""The same to us: transformers keeps the second as a copy of the first."""


_ONE_TOKEN = np.ones(1, dtype=np.int32)


class FusionReader(Reader):
    """T5 over retrieved passages.

    Args:
        model: any T5 of transformers (v1.0, v1.1, lm-adapt, flan, mT5).
        max_padded_tokens: how many tokens, padding included, one encoder call may hold.
    """

    def __init__(self, model: T5Model, *, max_padded_tokens: int) -> None:
        super().__init__()
        self.model: T5Model = model  # pyright: ignore[reportIncompatibleVariableOverride]
        self.max_padded_tokens = max_padded_tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.shared.weight.device

    @property
    def width(self) -> int:
        """Length of an encoder state."""
        return self.model.config.d_model

    @property
    def vocab_size(self) -> int:
        """Number of output tokens."""
        return self.model.config.vocab_size

    @property
    def decoder_start_id(self) -> int:
        """The token every answer begins after."""
        start = self.model.config.decoder_start_token_id
        assert start is not None, "every T5 has one"
        return start

    def encode(self, inputs: Sequence[Sequence[TokenIds]]) -> EncodedPassages:
        """Encode every passage of every query once, in buckets of similar length.

        Args:
            inputs: for each query, the token ids of each of its passages. Queries may have
                different numbers of passages.

        Returns:
            States with gradient, unless called under `torch.no_grad`.
        """
        lengths = length_table(inputs)
        flat_lengths = lengths.reshape(-1)
        tokens = [ids for passages in inputs for ids in passages]
        slots = np.flatnonzero(flat_lengths)
        starts = np.zeros_like(flat_lengths)
        pieces: list[Tensor] = []
        position = 0
        buckets = length_buckets(
            flat_lengths[slots], max_rows=len(slots) or 1, max_padded_tokens=self.max_padded_tokens
        )
        for bucket in buckets:
            pieces.append(self._encode_bucket([tokens[i] for i in bucket]))
            ends = position + np.cumsum(flat_lengths[slots[bucket]])
            starts[slots[bucket]] = ends - flat_lengths[slots[bucket]]
            position = int(ends[-1])
        for _ in range(self.calls_to_add(len(buckets))):
            # Takes part in forward and backward, and adds nothing.
            pieces.append(self._encode_bucket([_ONE_TOKEN])[:0])
        empty = torch.zeros(0, self.width, dtype=self.model.shared.weight.dtype, device=self.device)
        states = torch.cat(pieces) if pieces else empty
        return EncodedPassages(states, starts.reshape(lengths.shape), lengths)

    def _encode_bucket(self, token_lists: Sequence[TokenIds]) -> Float[Tensor, "token dim"]:
        ids, mask = pad_bucket(token_lists, self.model.config.pad_token_id or 0)
        # On the host: on a GPU, asking which tokens are real would wait for the device.
        real = mask.view(-1).nonzero().squeeze(1)
        ids, mask, real = (t.to(self.device, non_blocking=True) for t in (ids, mask, real))
        states = self.model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return states.flatten(0, 1).index_select(0, real)

    def decode(
        self,
        context: FusedStates,
        decoder_input_ids: Int[Tensor, "sequence target"],
        mask: Bool[Tensor, "sequence token"] | None = None,
    ) -> Float[Tensor, "sequence target vocab"]:
        """Logits of each target token given the context. `mask` replaces the context's own."""
        attention_mask = context.mask if mask is None else mask
        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=context.states),  # type: ignore[arg-type]
            attention_mask=attention_mask.long(),
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits

    @torch.no_grad()
    def generate(
        self,
        context: FusedStates,
        settings: GenerationSettings,
        prompts: Sequence[Sequence[int]] = (),
    ) -> list[list[int]]:
        """As `Reader.generate`; lengths count start token and prompt, as transformers does."""
        config = self.model.config
        generated = self.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            encoder_outputs=BaseModelOutput(last_hidden_state=context.states),  # type: ignore[arg-type]
            attention_mask=context.mask.long(),
            generation_config=GenerationConfig(
                max_length=settings.max_length,
                min_length=settings.min_length or 0,
                num_beams=settings.num_beams,
                length_penalty=settings.length_penalty,
                do_sample=False,
                # As transformers did by default in Atlas's time: beams go on until none can win.
                early_stopping=False,
                pad_token_id=config.pad_token_id,
                eos_token_id=config.eos_token_id,
                decoder_start_token_id=config.decoder_start_token_id,
            ),
            prefix_allowed_tokens_fn=_force(prompts, self.vocab_size) if prompts else None,
        )
        skip = [1 + len(prompt) for prompt in prompts] or [1] * len(generated)
        return [ids[count:].tolist() for ids, count in zip(generated, skip, strict=True)]


def _force(
    prompts: Sequence[Sequence[int]], vocab_size: int
) -> Callable[[int, Tensor], list[int] | range]:
    """Allow only the prompt's next token while the prompt lasts, then everything."""

    def allowed(sequence: int, so_far: Tensor) -> list[int] | range:
        position = len(so_far) - 1
        prompt = prompts[sequence]
        return [prompt[position]] if position < len(prompt) else range(vocab_size)

    return allowed


def sequence_chunks(
    sequences: int, target_length: int, vocab_size: int, *, max_logits: int = 64_000_000
) -> Iterator[slice]:
    """Cut a batch of sequences so that one chunk's logits stay below `max_logits` numbers.

    64 million float32 logits are 256 MB: scoring 40 passages of a large batch at once would
    otherwise need gigabytes for a tensor that is reduced at once.
    """
    size = max(1, max_logits // max(1, target_length * vocab_size))
    for start in range(0, sequences, size):
        yield slice(start, min(start + size, sequences))
