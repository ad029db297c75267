"""Masked language modelling: fill the holes of a text, as T5 was pre-trained to."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from gazetteer.errors import OptionError
from gazetteer.tasks import base
from gazetteer.tasks.passage_text import PassageTask

Span = tuple[int, int]
"""Where something begins and ends, in tokens or in characters."""


class Task(PassageTask):
    """A text with spans of tokens replaced by sentinels in; sentinels and spans out.

    Spans are cut out of the text itself, not of what its tokens decode to, so that no character is
    lost that the tokenizer does not know.

    Args:
        min_words: leave shorter texts out; `--min_words_per_lm_instance`.
        density: share of the tokens that is masked; `--mlm_noise_density`.
        mean_length: of a masked span, in tokens; `--mlm_mean_noise_span_length`.
        max_tokens: of a text; the tail is cut; `--text_maxlength`.

    Source:
        Span corruption of T5, arXiv:1910.10683, section 3.1.4; used for pre-training in section
        2.3 of Atlas, arXiv:2208.03299.
    """

    flags: ClassVar[Mapping[str, str]] = {
        "min_words": "min_words_per_lm_instance",
        "density": "mlm_noise_density",
        "mean_length": "mlm_mean_noise_span_length",
        "max_tokens": "text_maxlength",
    }
    tokenizes: ClassVar[bool] = True

    def __init__(
        self,
        min_words: int | None = None,
        density: float = 0.15,
        mean_length: float = 3.0,
        max_tokens: int = 200,
    ) -> None:
        super().__init__(min_words)
        self._density = density
        self._mean_length = mean_length
        self._max_tokens = max_tokens
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._sentinels = 0

    def use_tokenizer(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Texts are masked in the reader's tokens, by its sentinels."""
        assert tokenizer is not None, "option rules require a reader's tokenizer"
        vocabulary = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._sentinels = next(i for i in count() if f"<extra_id_{i}>" not in vocabulary)
        if not self._sentinels or not tokenizer.is_fast:
            lack = "tells no offsets" if self._sentinels else f"has no {base.SENTINEL}"
            raise OptionError(f"--task mlm: the reader's tokenizer {lack} (--reader_model_type)")

    def parts(self, line: Mapping[str, Any], generator: random.Random) -> tuple[str, str]:
        """The text with holes; what was in them."""
        text = base.without_sentinels(line["text"]).strip()
        offsets = self._offsets(text)
        if not offsets:
            return text, ""
        masked = noise_spans(
            len(offsets), self._density, self._mean_length, self._sentinels, generator
        )
        spans = [(offsets[start][0], offsets[stop - 1][1]) for start, stop in masked]
        return cut_out(text[: offsets[-1][1]], spans)

    def _offsets(self, text: str) -> list[Span]:
        """Where each token stands in the text; those without a character of their own are out."""
        assert self._tokenizer is not None, "a tokenizer was to be given before the first example"
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            truncation=True,
            max_length=self._max_tokens,
            return_offsets_mapping=True,
            verbose=False,
        )
        offsets: list[Span] = []
        for start, stop in encoded["offset_mapping"]:  # type: ignore[union-attr]
            # Several tokens of one character, as bytes are, share its place: they go together.
            start = max(start, offsets[-1][1]) if offsets else start
            if text[start:stop].strip():
                offsets.append((start, stop))
        return offsets


def noise_spans(
    tokens: int, density: float, mean_length: float, most: int, generator: random.Random
) -> list[Span]:
    """Which tokens to mask: spans in order, never two side by side, the last at the end.

    Args:
        tokens: in the text, at least 1.
        density: share to mask.
        mean_length: of a span.
        most: spans there are sentinels for; with more noise than that, spans are longer.
        generator: draws the lengths of the spans and of the gaps before them, each uniform over
            all ways to cut.

    Returns:
        At least one span. Of a single token, that one; else one token at least is left.
    """
    if tokens == 1:
        return [(0, 1)]
    noise = min(max(round(tokens * density), 1), tokens - 1)
    spans = min(max(round(noise / mean_length), 1), noise, tokens - noise, most)
    gaps = _random_parts(tokens - noise, spans, generator)
    lengths = _random_parts(noise, spans, generator)
    found, start = [], 0
    for gap, length in zip(gaps, lengths, strict=True):
        found.append((start + gap, start + gap + length))
        start += gap + length
    return found


def _random_parts(total: int, parts: int, generator: random.Random) -> list[int]:
    """`parts` positive numbers that add up to `total`, every such list equally likely."""
    cuts = sorted(generator.sample(range(1, total), parts - 1))
    return [stop - start for start, stop in pairwise([0, *cuts, total])]


def cut_out(text: str, spans: Sequence[Span]) -> tuple[str, str]:
    """Replace spans of characters by sentinels; white space at their ends stays in the text.

    Returns:
        The text with sentinels, and each sentinel followed by what it stands for.
    """
    kept, cut, end = [], [], 0
    for number, (start, stop) in enumerate(spans):
        span = text[start:stop]
        inner = span.strip()
        start += len(span) - len(span.lstrip())
        sentinel = f"<extra_id_{number}>"
        kept += [text[end:start], sentinel]
        cut += [sentinel, inner]
        end = start + len(inner)
    return "".join([*kept, text[end:]]), " ".join(cut)
