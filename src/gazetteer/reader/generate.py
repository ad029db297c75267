"""Answers: generation from encoder states that were already computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from gazetteer.reader.fusion import FusedStates, FusionReader

_SENTINEL = re.compile(r"<extra_id_\d+>")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """How answers are decoded; the four `--generation_*` flags. No sampling."""

    max_length: int = 128
    min_length: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0


@torch.no_grad()
def generate(
    reader: FusionReader,
    context: FusedStates,
    settings: GenerationSettings,
    prompts: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """Decode one answer per sequence, greedily or by beam search.

    Args:
        reader: in evaluation mode.
        context: fused passages of each query.
        settings: lengths count the start token and the prompt, as transformers does.
        prompts: ids the answer of each query must begin with; empty for none.

    Returns:
        Token ids of each answer without start token and prompt; special tokens are kept.
    """
    config = reader.model.config
    generated = reader.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
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
        prefix_allowed_tokens_fn=_force(prompts, reader.vocab_size) if prompts else None,
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


def decode_answers(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Texts of generated ids, special tokens and sentinels removed.

    Sentinels are special tokens of T5; of mT5 they are words like any other.
    """
    texts = tokenizer.batch_decode(list(map(list, ids)), skip_special_tokens=True)
    return [_SENTINEL.sub("", text).strip() for text in texts]
