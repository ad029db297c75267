"""What an index says it was made from, where a test does not care."""

from __future__ import annotations

from gazetteer.index import EncoderIdentity, IndexIdentity

IDENTITY = IndexIdentity(
    corpus="corpus",
    encoder=EncoderIdentity(
        weights="weights",
        tokenizer="tokenizer",
        template="{text}",
        pooling="mean",
        normalize=False,
        max_tokens=8,
    ),
)
