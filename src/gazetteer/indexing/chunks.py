"""Embeddings of a version that is not whole yet, on disk: what a killed run need not embed again.

Each file holds a range of rows and says which, what they were made from, and a hash over both and
the vectors. Files appear under their names in one move. A file that is torn or foreign counts as
none, whatever the cause, so nothing here has to wait for the disk.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gazetteer.index.shards import overlap

logger = logging.getLogger(__name__)

TENSOR = "embeddings"
ENCODER_FOLDER = "encoder"
"""Beside the chunks, where processes set aside embed: the encoder that they are to use."""
KEY_LETTERS = 16
"""Of a version's key, in the name of its folder; the files carry all of it."""
_NAME = re.compile(r"rows\.(\d+)-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class ChunkFolder:
    """The chunks of one version.

    Attributes:
        path: of the folder, which may not exist; no other version's.
        key: stands for what the vectors are made from.
        dim: of the vectors.
    """

    path: Path
    key: str
    dim: int

    @classmethod
    def of_version(cls, refresh_folder: Path, key: str, dim: int) -> ChunkFolder:
        """The folder of the version with this key among those of an experiment."""
        return cls(refresh_folder / key[:KEY_LETTERS], key, dim)

    def create(self) -> None:
        """Make the folder, if it is missing. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove all of it. Who still writes chunks has to look whether it `is_wanted`."""
        # First, so that whoever writes a chunk too late to be seen here sees this.
        shutil.rmtree(self.path / ENCODER_FOLDER, ignore_errors=True)
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def is_wanted(self) -> bool:
        """Whether the trainers still wait for what processes set aside embed here."""
        return (self.path / ENCODER_FOLDER).is_dir()

    def file_of(self, rows: range) -> Path:
        """Where a chunk of these rows lies, or would."""
        return self.path / f"rows.{rows.start:010d}-{rows.stop:010d}.safetensors"

    def listed(self) -> list[range]:
        """Rows of each file by its name, in order; the files are not looked into."""
        names = (path.name for path in self.path.glob("rows.*.safetensors"))
        found = (_NAME.fullmatch(name) for name in names)
        ranges = [range(int(match[1]), int(match[2])) for match in found if match]
        return sorted(ranges, key=lambda rows: (rows.start, rows.stop))

    def write(self, first_row: int, vectors: Float[Tensor, "row dim"]) -> None:
        """Write one chunk.

        Args:
            first_row: global row of the first vector.
            vectors: float32, on any device.

        Raises:
            OSError: the folder is gone, or the disk is full.
        """
        held = vectors.detach().cpu().contiguous()
        content = save({TENSOR: held}, self._facts(first_row, held))
        final = self.file_of(range(first_row, first_row + len(held)))
        temporary = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
        try:
            temporary.write_bytes(content)
            temporary.replace(final)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

    def read(self, rows: range) -> Float[Tensor, "row dim"] | None:
        """The vectors of one chunk; None where there is no file of just these rows, or not ours.

        Args:
            rows: as `listed` gives them.
        """
        path = self.file_of(rows)
        try:
            with safe_open(path, framework="pt") as file:
                facts, vectors = file.metadata() or {}, file.get_tensor(TENSOR)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("%s: not readable (%s), as if it were not there", path, error)
            return None
        is_ours = vectors.shape == (len(rows), self.dim) and vectors.dtype == torch.float32
        if not is_ours or facts != self._facts(rows.start, vectors):
            logger.warning("%s: damaged or of another version, as if it were not there", path)
            return None
        return vectors

    def read_into(self, rows: range, out: Float[Tensor, "row dim"]) -> list[range]:
        """Copy what is there of some rows.

        Args:
            rows: global rows, contiguous.
            out: room for all of them, float32, on any device.

        Returns:
            The rows that were copied, in order.
        """
        copied = []
        for chunk in self.listed():
            shared = overlap(chunk, rows)
            vectors = self.read(chunk) if len(shared) else None
            if vectors is not None:
                local = vectors[shared.start - chunk.start : shared.stop - chunk.start]
                out[shared.start - rows.start : shared.stop - rows.start] = local
                copied.append(shared)
        return copied

    def keep_intact(self) -> list[range]:
        """Remove every file that is no chunk of this version.

        Returns:
            The rows of those that are, in order.
        """
        intact = []
        for chunk in self.listed():
            if self.read(chunk) is None:
                self.file_of(chunk).unlink(missing_ok=True)
            else:
                intact.append(chunk)
        return intact

    def _facts(self, first_row: int, vectors: Tensor) -> dict[str, str]:
        digest = self._digest(first_row, vectors)
        return {"version": self.key, "first_row": str(first_row), "sha256": digest}

    def _digest(self, first_row: int, vectors: Tensor) -> str:
        digest = hashlib.sha256(f"{self.key} {first_row} {tuple(vectors.shape)};".encode())
        digest.update(vectors.contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def uncovered(rows: range, covered: Iterable[range]) -> list[range]:
    """The parts of some rows that are in none of the given ranges, in order.

    Args:
        rows: contiguous.
        covered: in any order; may overlap each other and reach beyond `rows`.
    """
    gaps, position = [], rows.start
    for part in sorted((overlap(part, rows) for part in covered), key=lambda part: part.start):
        if len(part) == 0:
            continue
        if part.start > position:
            gaps.append(range(position, part.start))
        position = max(position, part.stop)
    if position < rows.stop:
        gaps.append(range(position, rows.stop))
    return gaps


def pieces(rows: range, size: int) -> list[range]:
    """Some rows in parts of this size, the last one smaller."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]
