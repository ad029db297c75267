"""Targets as the decoder needs them: labels, shifted inputs, and the optional decoder prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import repeat

import torch
from transformers import PreTrainedTokenizerBase

from gazetteer.records import Targets

IGNORED = -100
"""Label of positions that carry no loss."""

_SENTINEL = re.compile(r" ?<extra_id_\d+> ?")


def strip_sentinels(text: str) -> str:
    """A text for models that know no sentinels; its white space stays."""
    return _SENTINEL.sub("", text)


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
        wanted = [self._truncated(ids) for ids in self._target_ids(targets)]
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

    def _target_ids(self, targets: Sequence[str]) -> list[list[int]]:
        end = str(self._tokenizer.eos_token)
        texts = [self._formatted(target) for target in targets]
        return self._ids([text if text.endswith(end) else f"{text} {end}" for text in texts])

    def _formatted(self, target: str) -> str:
        return target if self._format is None else self._format.format(target=target)

    def _truncated(self, ids: list[int]) -> list[int]:
        return ids if self._limit < 0 else ids[: self._limit]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[return-value]


class ContinuationTokenizer(TargetTokenizer):
    """Targets of a decoder-only reader: they go on where the prompt ends, as one text does.

    Sentinels are taken out; a space stands before the target unless the prompt ends in white
    space; the end token follows at once, without a space.
    """

    def _prompts(self, queries: Sequence[str]) -> list[tuple[int, ...]]:
        return super()._prompts([strip_sentinels(query) for query in queries])

    def _target_ids(self, targets: Sequence[str]) -> list[list[int]]:
        texts = [self._formatted(strip_sentinels(target)) for target in targets]
        texts = [self._space + text if text else "" for text in texts]
        end = self._tokenizer.eos_token_id
        assert isinstance(end, int), "a decoder-only reader without one is refused"
        return [ids if ids[-1:] == [end] else [*ids, end] for ids in self._ids(texts)]

    @property
    def _space(self) -> str:
        if (self._prompt_format or "")[-1:].isspace():
            return ""
        # Tokenizers that put a space before every text would make two of it.
        ids = self._ids(["a", " a"])
        return " " if len(ids[0]) == len(ids[1]) else ""
