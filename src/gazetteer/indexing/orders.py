"""A version that processes set aside embed: what they are asked for, and how the trainers wait.

The passage tower of now and the list of missing pieces go to a folder that all processes see; the
pieces come back there, one file each (chunks.py). Rank 0 watches, and the trainers adopt a version
before the same micro-batch once all of it has come.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gazetteer.distributed.agreement import main_first, raise_together
from gazetteer.distributed.collectives import all_reduce_max, broadcast_bytes
from gazetteer.distributed.set_aside import Overseer
from gazetteer.errors import IndexFileError
from gazetteer.index import EncoderIdentity, IndexIdentity
from gazetteer.indexing.chunks import ENCODER_FOLDER, ChunkFolder, pieces, uncovered
from gazetteer.indexing.identity import version_key
from gazetteer.records import Ranks
from gazetteer.retriever import DualEncoder, EmbeddingBatch, TextEncoder, save_retriever

logger = logging.getLogger(__name__)

PIECE_ROWS = 2048
"""A process set aside looks up between two pieces; so many pack well enough."""
PIECES_EACH = 8
"""Pieces for each process where the corpus is small, so that all end at about the same time."""
LATE_SECONDS = 60.0
"""How long a file that rank 0 sees may take to be seen by another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What processes set aside are asked to embed.

    Attributes:
        folder: of the version; holds the encoder, and the pieces when they are embedded.
        identity: what the vectors have to be made from.
        missing: rows of each piece that is not there yet; worker i of n embeds every n-th from i.
    """

    folder: Path
    identity: IndexIdentity
    missing: tuple[range, ...]

    def to_json(self) -> str:
        """As text."""
        document = {
            "folder": str(self.folder),
            "identity": asdict(self.identity),
            "missing": [[rows.start, rows.stop] for rows in self.missing],
        }
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> Order:
        """What `to_json` wrote."""
        document = json.loads(text)
        identity = document["identity"]
        return cls(
            folder=Path(document["folder"]),
            identity=IndexIdentity(
                corpus=identity["corpus"], encoder=EncoderIdentity(**identity["encoder"])
            ),
            missing=tuple(range(start, stop) for start, stop in document["missing"]),
        )


class OrderedVersion:
    """A version that is being embedded elsewhere, as the trainers see it.

    Collective: every trainer must make one.

    Args:
        tower: the passage tower; its weights are copied as they are now.
        tokenizer: the retriever's, for the encoder's folder.
        identity: what the version is made from; rank 0's counts.
        refresh_folder: of the experiment, seen by all processes.
        count: passages of the corpus.
        step: training step at which it is begun, in the unit of the flags.
        overseer: on rank 0, who gives the order.
        ranks: this process among its peers.

    Raises:
        GazetteerError: rank 0 could not write or give the order; on every rank.
    """

    slices, slices_done = 1, 0
    """For the checkpoint: begun, and not whole."""

    def __init__(
        self,
        tower: TextEncoder,
        tokenizer: PreTrainedTokenizerBase,
        *,
        identity: IndexIdentity,
        refresh_folder: Path,
        count: int,
        step: int,
        overseer: Overseer | None,
        ranks: Ranks,
    ) -> None:
        self.step = step
        self.identity = identity
        self.weights: Mapping[str, Tensor] = {
            name: tensor.detach().cpu().clone() for name, tensor in tower.weights().items()
        }
        self._overseer = overseer
        self._ranks = ranks
        self._awaited: list[range] = []
        # Rank 0's key for all: should weights differ in their last bits, they still meet.
        key = broadcast_bytes(version_key(identity).encode()).decode()
        self._chunks = ChunkFolder.of_version(refresh_folder, key, tower.embedding_dim)
        main_first(lambda: self._give_order(tower, tokenizer, count), ranks)

    def _give_order(
        self, tower: TextEncoder, tokenizer: PreTrainedTokenizerBase, count: int
    ) -> None:
        assert self._overseer is not None
        workers = self._overseer.workers
        folder = self._chunks.path
        try:
            self._chunks.create()
            missing = uncovered(range(count), self._chunks.keep_intact())
            as_retriever = DualEncoder(tower, tower, EmbeddingBatch())
            save_retriever(as_retriever, tokenizer, folder / ENCODER_FOLDER)
        except OSError as error:
            raise IndexFileError(
                f"{folder}: cannot be written ({error.strerror or error}); "
                "--refresh_mode dedicated needs it (--checkpoint_dir)"
            ) from None
        size = max(1, min(PIECE_ROWS, count // (PIECES_EACH * workers)))
        listed = tuple(piece for gap in missing for piece in pieces(gap, size))
        # From the end, so that the next one to look for is the last of the list.
        self._awaited = list(reversed(listed))
        order = Order(folder=folder, identity=self.identity, missing=listed)
        self._overseer.order(order.to_json())
        kept = count - sum(map(len, listed))
        logger.info(
            "refresh of step %d ordered; embedding workers: %d, pieces: %d%s",
            self.step,
            workers,
            len(listed),
            f", {kept} rows were embedded before" if kept else "",
        )

    def has_come(self) -> bool:
        """Whether all of it is there.

        Collective: every trainer must call this; one small collective.

        Raises:
            LaunchError: a process set aside has failed, or is lost (PeerLostError); on every rank.
        """
        problem = None
        if self._ranks.is_main:
            assert self._overseer is not None
            while self._awaited and self._chunks.file_of(self._awaited[-1]).exists():
                self._awaited.pop()
            problem = self._overseer.problem() if self._awaited else None
        state = 2 if problem else int(self._ranks.is_main and not self._awaited)
        state = int(all_reduce_max(torch.tensor([state], device=self._ranks.device)).item())
        if state == 2:
            raise_together(problem, self._ranks)
        return state == 1

    def read(self, rows: range, out: Float[Tensor, "row dim"]) -> None:
        """Read a version that has come. Not a collective.

        Args:
            rows: global rows, contiguous.
            out: room for them, float32, on any device.

        Raises:
            IndexFileError: some of them are not there, or damaged.
        """
        deadline = time.monotonic() + LATE_SECONDS
        while missing := uncovered(rows, self._chunks.read_into(rows, out)):
            is_seen = not uncovered(rows, self._chunks.listed())
            if is_seen or time.monotonic() > deadline:
                raise IndexFileError(
                    f"{self._chunks.path}: rows {missing[0].start}..{missing[0].stop - 1} of the "
                    f"refresh of step {self.step} cannot be read here: damaged, or not on a disk "
                    "that all workers share (--checkpoint_dir); the same command embeds them again"
                )
            time.sleep(1.0)
