"""A saved index that a tiny retriever made, with its passages: what a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gazetteer.data.passages import write_passages
from gazetteer.data.templates import PassageTemplate
from gazetteer.data.tokens import PassageTokens
from gazetteer.files import STAMP
from gazetteer.index import EncoderIdentity, IndexIdentity
from gazetteer.index.encoders import UNKNOWN, load_encoder
from gazetteer.index.storage import save_rows

TEMPLATE, MAX_TOKENS = "{title} {text}", 64


def save_embedded(
    folder: Path,
    passages: Sequence[Mapping[str, Any]],
    retriever_folder: Path,
    *,
    pooling: str = "mean",
    normalize: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Embed passages and save them; `dtype` is the arithmetic of the run that did it."""
    settings = EncoderIdentity(
        weights=UNKNOWN,
        tokenizer=UNKNOWN,
        template=TEMPLATE,
        pooling=pooling,
        normalize=normalize,
        max_tokens=MAX_TOKENS,
    )
    retriever, tokenizer, encoder = load_encoder(str(retriever_folder), settings, dtype)
    store = write_passages(passages, folder / "passages")
    template = PassageTemplate.parse(TEMPLATE)
    tokens = PassageTokens(
        store, tokenizer, template, max_tokens=MAX_TOKENS, cache_dir=folder.parent / "cache"
    )
    vectors = retriever.embed_for_index(tokens.passage_inputs(range(store.count)))
    identity = IndexIdentity(corpus=store.fingerprint, encoder=encoder)
    save_rows([vectors], folder, identity=identity, step=0, embedding_dim=vectors.shape[1])
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the notes about when files were looked at."""
    files = (path for path in folder.rglob("*") if path.is_file() and STAMP not in path.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
