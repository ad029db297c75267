"""What a version of the index is made from, and the key that stands for it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from gazetteer.data.passages import PassageStore
from gazetteer.data.tokens import PassageTokens
from gazetteer.index import EncoderIdentity, IndexIdentity
from gazetteer.retriever import TextEncoder, tower_fingerprint


def identity_of(tower: TextEncoder, corpus: PassageStore, tokens: PassageTokens) -> IndexIdentity:
    """What this tower's embeddings of these passages depend on; hashes all weights."""
    return IndexIdentity(
        corpus=corpus.fingerprint,
        encoder=EncoderIdentity(
            weights=tower_fingerprint(tower),
            tokenizer=tokens.tokenizer_fingerprint,
            template=tokens.template,
            pooling=tower.pooling,
            normalize=tower.normalize,
            max_tokens=tokens.max_tokens,
        ),
    )


def version_key(identity: IndexIdentity) -> str:
    """SHA-256 over all of an identity: vectors under the same key are the same vectors."""
    return hashlib.sha256(json.dumps(asdict(identity), sort_keys=True).encode()).hexdigest()
