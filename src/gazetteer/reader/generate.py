"""Answers: generated ids, and their texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from gazetteer.reader.base import GenerationSettings, Reader
from gazetteer.reader.states import FusedStates

_SENTINEL = re.compile(r"<extra_id_\d+>")


def generate(
    reader: Reader,
    context: FusedStates,
    settings: GenerationSettings,
    prompts: Sequence[Sequence[int]] = (),
) -> list[list[int]]:
    """One answer per sequence: `Reader.generate`."""
    return reader.generate(context, settings, prompts)


def decode_answers(tokenizer: PreTrainedTokenizerBase, ids: Sequence[Sequence[int]]) -> list[str]:
    """Texts of generated ids, special tokens and sentinels removed.

    Sentinels are special tokens of T5; of mT5 they are words like any other.
    """
    texts = tokenizer.batch_decode(list(map(list, ids)), skip_special_tokens=True)
    return [_SENTINEL.sub("", text).strip() for text in texts]
