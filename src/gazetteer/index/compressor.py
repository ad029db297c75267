"""Making compressed shards: one quantiser for all ranks, then every rank's rows, block by block."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gazetteer.distributed.agreement import raise_together
from gazetteer.distributed.collectives import broadcast_bytes, exchange_rows
from gazetteer.errors import IndexFileError
from gazetteer.index import faiss_codec
from gazetteer.index.codec import CodecSettings, plan_codec
from gazetteer.index.codec_storage import load_codes, load_quantiser
from gazetteer.index.compressed import CompressedShard
from gazetteer.index.loading import copy_vectors, files_of, map_vectors, remember_checked
from gazetteer.index.manifest import Manifest
from gazetteer.index.mapped import mapped_matrix
from gazetteer.index.shards import shard_range
from gazetteer.index.stored_files import StoredFile, verify_files
from gazetteer.records import Ranks
from gazetteer.stamps import State

logger = logging.getLogger(__name__)


class Compressor:
    """Builds and loads the compressed shards of one corpus; a `ShardBuilder`.

    Args:
        settings: what was asked for.
        count: passages in the whole index.
        dim: of their embeddings.
        ranks: this process among its peers.
        folder: for this rank's vectors, in files without a name, where they are not mapped from a
            saved index.
        show_progress: draw a bar on this rank.

    Raises:
        OptionError: faiss is not installed, or the code size does not suit the dimension.
    """

    def __init__(
        self,
        settings: CodecSettings,
        *,
        count: int,
        dim: int,
        ranks: Ranks,
        folder: Path,
        show_progress: bool,
    ) -> None:
        faiss_codec.load_faiss()
        self.codec = plan_codec(settings, count=count, dim=dim)
        self._settings = settings
        self._count = count
        self._ranks = ranks
        self._rows = shard_range(count, ranks.rank, ranks.world_size)
        self._folder = folder
        self._show_progress = show_progress

    def allocate(self) -> Float[Tensor, "row dim"]:
        """Room on the disk for the vectors of this rank's rows.

        Raises:
            IndexFileError: there is none.
        """
        return mapped_matrix(self._folder, len(self._rows), self.codec.dim)

    def __call__(self, vectors: Float[Tensor, "row dim"]) -> CompressedShard:
        """Train the quantiser and compress this rank's rows. See `ShardBuilder`. Collective."""
        vectors = vectors.cpu()
        quantiser = self._train(vectors)
        index = faiss_codec.read_codec(self.codec, quantiser)
        return self._finish(vectors, index, quantiser)

    def load(self, folder: Path, manifest: Manifest) -> CompressedShard:
        """Take this rank's rows from a saved index, flat or compressed, whoever saved it.

        Where it holds codes of the kind asked for, nothing is trained. Otherwise the codes are made
        from its vectors, and that is logged.

        Collective: every rank must call this.

        Raises:
            IndexFileError: a file is missing, truncated, or differs from its hash; on every rank.
        """
        stored = manifest.codec
        problem: Exception | None = None
        vectors, quantiser, index = torch.empty(0, self.codec.dim), b"", None
        states: dict[str, State] = {}
        try:
            wanted: list[StoredFile] = [*files_of(manifest.files, self._rows)]
            if stored is not None and stored.codec == self.codec:
                wanted += [stored.quantiser, *files_of(stored.codes, self._rows)]
            states = verify_files(folder, wanted)
            mapped = map_vectors(folder, manifest, self._rows)
            if mapped is None:
                mapped = copy_vectors(folder, manifest, self._rows, out=self.allocate())
            vectors = mapped
            if stored is not None and stored.codec == self.codec:
                quantiser = load_quantiser(folder, stored)
                index = load_codes(folder, stored, quantiser, self._rows)
        except IndexFileError as error:
            problem = error
        raise_together(problem, self._ranks)
        remember_checked(folder, manifest, states)
        if index is not None:
            return self._finish(vectors, index, quantiser)
        found = "no codes" if stored is None else str(stored.codec)
        logger.info("%s: holds %s; making %s from its vectors", folder, found, self.codec)
        return self(vectors)

    def _finish(
        self, vectors: Tensor, index: faiss_codec.FaissIndex, quantiser: bytes
    ) -> CompressedShard:
        """Encode the rows whose codes are not there yet; move to the GPU what can be there."""
        index = faiss_codec.on_device(index, self.codec, self._ranks.device)
        if index.ntotal == 0:
            faiss_codec.add_rows(index, vectors, show_progress=self._show_progress)
        return CompressedShard(
            vectors, index, self.codec, quantiser=quantiser, settings=self._settings
        )

    def _train(self, vectors: Tensor) -> bytes:
        """The quantiser, empty, the same on every rank. Collective."""
        sample = self._sample(vectors)
        problem: Exception | None = None
        trained = None
        if sample is not None:
            try:
                if self.codec.kind != "flat":
                    logger.info("training %s on %d passages", self.codec, len(sample))
                trained = faiss_codec.train_codec(self.codec, sample)
            except Exception as error:
                problem = error
        raise_together(problem, self._ranks)
        return broadcast_bytes(trained)

    def _sample(self, vectors: Tensor) -> Float[Tensor, "row dim"] | None:
        """Rows to train on, evenly spread over the corpus, on rank 0; None elsewhere. Collective.

        The same rows whatever the number of ranks, in the same order.
        """
        wanted = sample_rows(self._count, self.codec.sample_size(self._count))
        world_size = self._ranks.world_size
        bounds = [shard_range(self._count, rank, world_size).stop for rank in range(world_size)]
        stops = torch.searchsorted(wanted, torch.tensor(bounds)).tolist()
        counts = [stop - start for start, stop in zip([0, *stops], stops, strict=False)]
        rank = self._ranks.rank
        mine = wanted[stops[rank] - counts[rank] : stops[rank]] - self._rows.start
        send = [len(mine)] + [0] * (world_size - 1)
        receive = counts if rank == 0 else [0] * world_size
        received = exchange_rows(vectors[mine], send, receive)
        return received if rank == 0 else None


def sample_rows(count: int, size: int) -> Tensor:
    """`size` of `count` rows, evenly spread, ascending (int64)."""
    return torch.arange(size) * count // max(1, size)
