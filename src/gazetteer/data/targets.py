"""Targets as the decoder needs them: labels, shifted inputs, and the optional decoder prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.records import Targets

IGNORED = -100
"""Label of positions that carry no loss."""


class TargetTokenizer:
    """Turn target texts into labels.

    Args:
        tokenizer: the reader's.
        decoder_start_id: token the decoder starts from.
        max_length: tokens kept of a target, end token included; None = the tokenizer's own
            limit, -1 = no limit.
        decoder_format: wraps the target (field `{target}`); None leaves it as it is.
        decoder_prompt_format: text the decoder is given first (field `{query}`); it is masked
            from the loss and forced at generation.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        decoder_start_id: int,
        max_length: int | None = None,
        decoder_format: str | None = None,
        decoder_prompt_format: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._start = decoder_start_id
        self._limit = tokenizer.model_max_length if max_length is None else max_length
        self._format = decoder_format
        self._prompt_format = decoder_prompt_format

    def encode(
        self, queries: Sequence[str], targets: Sequence[str], device: torch.device | None = None
    ) -> Targets:
        """Labels for a batch, padded only to its longest target.

        An end token is added unless the text already ends with one, as Atlas does; truncation
        keeps the head.
        """
        prompts = self._prompts(queries)
        texts = [self._wrapped(target) for target in targets]
        wanted = [self._truncated(ids) for ids in self._ids(texts)]
        full = [[*prompt, *ids] for prompt, ids in zip(prompts or repeat(()), wanted, strict=False)]
        width = max((len(ids) for ids in full), default=0)
        labels = torch.full((len(full), width), IGNORED)
        inputs = torch.full((len(full), width), self._pad)
        for row, ids in enumerate(full):
            labels[row, : len(ids)] = torch.tensor(ids)
            inputs[row, 0] = self._start
            inputs[row, 1 : len(ids)] = torch.tensor(ids[:-1], dtype=torch.long)
        for row, prompt in enumerate(prompts):
            labels[row, : len(prompt)] = IGNORED
        return Targets(labels.to(device), inputs.to(device), tuple(prompts))

    @property
    def _pad(self) -> int:
        pad = self._tokenizer.pad_token_id
        return pad if isinstance(pad, int) else 0

    def _prompts(self, queries: Sequence[str]) -> list[tuple[int, ...]]:
        if self._prompt_format is None:
            return []
        texts = [self._prompt_format.format(query=query) for query in queries]
        return [tuple(ids) for ids in self._ids(texts)]

    def _wrapped(self, target: str) -> str:
        text = target if self._format is None else self._format.format(target=target)
        end = str(self._tokenizer.eos_token)
        return text if text.endswith(end) else f"{text} {end}"

    def _truncated(self, ids: list[int]) -> list[int]:
        return ids if self._limit < 0 else ids[: self._limit]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[return-value]
