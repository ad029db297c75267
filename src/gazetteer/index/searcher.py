"""A saved index as a library: open it with its encoder, ask it questions, get passages."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gazetteer.data.passages import PASSAGES_FOLDER, PassageStore
from gazetteer.data.queries import QueryTokenizer
from gazetteer.errors import IndexFileError
from gazetteer.index.codec import CodecSettings
from gazetteer.index.compressor import Compressor
from gazetteer.index.encoders import MAX_TOKENS, load_encoder_of
from gazetteer.index.making import FlatMaker, ShardMaker
from gazetteer.index.manifest import (
    IndexIdentity,
    Manifest,
    identity_mismatches,
    read_manifest,
)
from gazetteer.index.shards import Shard
from gazetteer.records import PassageRecord, Ranks
from gazetteer.retriever import DualEncoder

logger = logging.getLogger(__name__)


class Searcher:
    """An index, its passages and its encoder, in one process.

    Args:
        shard: every row of the index.
        passages: their text.
        retriever: its query tower embeds; on any device.
        queries: makes token ids of queries.
    """

    def __init__(
        self,
        shard: Shard,
        passages: PassageStore,
        retriever: DualEncoder,
        queries: QueryTokenizer,
    ) -> None:
        self.passages = passages
        self._shard = shard
        self._retriever = retriever
        self._queries = queries

    @property
    def count(self) -> int:
        """Passages in the index."""
        return self.passages.count

    def embed(self, queries: Sequence[str]) -> Float[Tensor, "query dim"]:
        """Embeddings of queries: float32, on the retriever's device, without gradient."""
        return self._retriever.embed_for_search(self._queries.encode(queries))

    @torch.no_grad()
    def search(self, queries: Sequence[str], k: int = 10) -> list[list[PassageRecord]]:
        """Find the best passages for each query.

        Args:
            queries: texts; may be empty.
            k: passages wanted for each; there are fewer where the index has fewer.

        Returns:
            For each query its passages, best first: `score` (the dot product, in place of a field
            of that name), `id`, `title`, `text` and every other field the passage came with.

        Raises:
            ValueError: k < 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if not queries or self.count == 0:
            return [[] for _ in queries]
        asked = self.embed(queries).to(self._shard.device)
        scores, rows = self._shard.search(asked, min(k, self.count))
        records = self.passages.records(rows.flatten().cpu().numpy())
        found = iter(records)
        return [[_scored(next(found), score) for score in line] for line in scores.tolist()]


def _scored(record: PassageRecord, score: float) -> PassageRecord:
    """The score first, and whatever the passage came with."""
    return {"score": score} | record | {"score": score}


def open_index(
    folder: str | Path,
    model: str | Path,
    *,
    allow_stale: bool = False,
    exact: bool = False,
    device: str | torch.device = "cpu",
) -> Searcher:
    """Open a saved index, with the passages that lie beside it, for searching.

    How the encoder pools, cuts and fills its template is read from the index. What allows it is
    mapped into memory, not copied. Not a collective.

    Args:
        folder: written by `--save_index_path`, or by `python -m gazetteer.index`.
        model: the retriever that made it, such as `checkpoint/latest/retriever`: folder or hub
            name.
        allow_stale: search although another encoder made the index, with a warning.
        exact: search the vectors themselves although the index has codes of faiss.
        device: where to search and embed.

    Raises:
        IndexFileError: no index, a damaged one, one without passages, or another encoder's.
        CheckpointError: nothing usable under the model's name.
        OptionError: the index has codes of faiss, which is not installed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    passages = open_passages(folder, manifest)
    retriever, tokenizer = load_checked_encoder(
        folder, manifest, str(model), allow_stale=allow_stale
    )
    maker = maker_of(manifest, Ranks(device=torch.device(device)), exact=exact)
    return Searcher(
        maker.load(folder, manifest),
        passages,
        retriever.to(device),
        QueryTokenizer(tokenizer, max_tokens=manifest.identity.encoder.max_tokens or MAX_TOKENS),
    )


def load_checked_encoder(
    folder: Path,
    manifest: Manifest,
    model: str,
    *,
    allow_stale: bool = False,
    allowing: str = "allow_stale=True",
) -> tuple[DualEncoder, PreTrainedTokenizerBase]:
    """The encoder under a name, if it is the one that made an index.

    Args:
        folder: of the index.
        manifest: of the index.
        model: folder or hub name.
        allow_stale: take another one, with a warning.
        allowing: what says so, for messages.

    Raises:
        IndexFileError: it is another one.
        CheckpointError: nothing usable under that name.
    """
    retriever, tokenizer, encoder = load_encoder_of(model, manifest.identity.encoder)
    expected = IndexIdentity(corpus=manifest.identity.corpus, encoder=encoder)
    mismatches = identity_mismatches(manifest.identity, expected)
    if mismatches and not allow_stale:
        raise IndexFileError(
            f"{folder}: not made by {model} ({'; '.join(mismatches)}); "
            f"name the retriever that made it, or pass {allowing}"
        )
    for mismatch in mismatches:
        logger.warning("%s: %s (%s)", folder, mismatch, allowing)
    if retriever.embedding_dim != manifest.embedding_dim:
        raise IndexFileError(
            f"{folder}: vectors of {manifest.embedding_dim} numbers, "
            f"{model} makes {retriever.embedding_dim}"
        )
    return retriever, tokenizer


def maker_of(manifest: Manifest, ranks: Ranks, *, exact: bool = False) -> ShardMaker:
    """What searches an index in the way in which it was saved, or exactly."""
    count, dim = manifest.count, manifest.embedding_dim
    # For vectors that cannot be mapped from the index.
    folder = Path(tempfile.gettempdir())
    if manifest.codec is None or exact:
        return FlatMaker("fp32", count=count, dim=dim, ranks=ranks, folder=folder)
    codec = manifest.codec.codec
    settings = CodecSettings(
        kind=codec.kind, code_size=codec.code_size, nlist=codec.nlist if codec.has_lists else None
    )
    return Compressor(
        settings, count=count, dim=dim, ranks=ranks, folder=folder, show_progress=False
    )


def open_passages(folder: Path, manifest: Manifest) -> PassageStore:
    """The passages beside a saved index, checked to be the very ones that were embedded.

    Raises:
        IndexFileError: there are none, they are damaged, or they are others.
    """
    passages = PassageStore(folder / PASSAGES_FOLDER)
    if passages.fingerprint != manifest.identity.corpus:
        raise IndexFileError(
            f"{passages.folder}: other passages than were embedded: their fingerprint is "
            f"{passages.fingerprint}, the index has {manifest.identity.corpus}"
        )
    if passages.count != manifest.count:
        raise IndexFileError(
            f"{passages.folder}: {passages.count} passages, the index has {manifest.count} rows"
        )
    return passages
