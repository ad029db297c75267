"""faiss: the only module that speaks to it. Trains quantisers, fills them, reads them back.

Without process groups: what is collective about a compressed index is in compressor.py.
"""

from __future__ import annotations

import functools
import logging
import types
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gazetteer.errors import OptionError
from gazetteer.index.codec import Codec
from gazetteer.progress import progress

logger = logging.getLogger(__name__)

FaissIndex = Any
"""An index of faiss, which has no types of its own."""

BLOCK_ROWS = 32_768
"""Rows encoded at once: 100 MB of 768 numbers each."""
FOUR_LETTERS = {
    "flat": b"IxFI",
    "sq": b"IxSQ",
    "pq": b"IxPq",
    "pqfs": b"IPfs",
    "ivfflat": b"IwFl",
    "ivfsq": b"IwSq",
    "ivfpq": b"IwPQ",
    "ivfpqfs": b"IwPf",
}
"""What a serialised index of each kind begins with; nothing else is given to faiss's reader."""
ON_GPU = {"flat", "ivfflat", "ivfsq", "ivfpq"}
"""Kinds that faiss can search on a GPU."""
MOST_ON_GPU = 2048
"""Hits and lists that one query may ask a GPU for."""


class DamagedCodecError(ValueError):
    """Bytes are not the quantiser they should be; the caller adds the file's name."""


@functools.cache
def load_faiss() -> types.ModuleType:
    """Import faiss, which only compressed indexes need.

    Raises:
        OptionError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise OptionError(
            "--index_mode faiss needs the package faiss, which is not installed:"
            " pip install 'gazetteer[cpu]', or 'gazetteer[gpu]' for GPUs"
        ) from None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def train_codec(codec: Codec, sample: Float[Tensor, "row dim"]) -> bytes:
    """Train a quantiser and return it, empty, as bytes for `read_codec`.

    The same sample gives the same bytes: faiss's k-means has a fixed seed.
    """
    faiss = load_faiss()
    index = faiss.index_factory(codec.dim, codec.factory, faiss.METRIC_INNER_PRODUCT)
    for part in (index, getattr(index, "pq", None)):
        if part is not None and hasattr(part, "cp"):
            # faiss prints a warning below 39 rows for each centroid; small corpora have fewer.
            part.cp.min_points_per_centroid = 1
    index.train(_numpy(sample))
    return faiss.serialize_index(index).tobytes()


def read_codec(codec: Codec, content: bytes) -> FaissIndex:
    """An empty index from the bytes of a trained one.

    Args:
        codec: what the bytes should be.
        content: from `train_codec`; where it came from a file, its hash was checked before.

    Raises:
        DamagedCodecError: the bytes are something else.
    """
    faiss = load_faiss()
    if content[:4] != FOUR_LETTERS[codec.kind]:
        raise DamagedCodecError(f"begins with {content[:4]!r}, not as {codec.kind} does")
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    # No vector in it is longer than all of it, and nothing is repeated more often. Only the tables
    # of ivfpq, which faiss counts although inner products need none, are larger.
    tables = 4 * codec.nlist * codec.code_size * 256 if codec.code in ("pq", "pqfs") else 0
    faiss.set_deserialization_vector_byte_limit(len(content) + tables)
    faiss.set_deserialization_loop_limit(len(content))
    try:
        index = faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
    except (RuntimeError, ValueError) as error:
        raise DamagedCodecError(f"faiss cannot read it ({_last_line(error)})") from None
    finally:
        faiss.set_deserialization_vector_byte_limit(limits[0])
        faiss.set_deserialization_loop_limit(limits[1])
    _require_kind(index, codec)
    return index


def add_rows(index: FaissIndex, vectors: Float[Tensor, "row dim"], *, show_progress: bool) -> None:
    """Encode and add rows, block by block, so that memory does not grow with them."""
    if len(vectors) == 0:
        return
    with progress(len(vectors), "compressing", "passage", enabled=show_progress) as bar:
        for block in vectors.split(BLOCK_ROWS):
            index.add(_numpy(block))
            bar.update(len(block))


def has_row_codes(codec: Codec) -> bool:
    """True where codes can be kept apart from the index and are smaller than the vectors.

    Flat codes are the vectors themselves. Fast scan interleaves rows, and faiss 1.15.1 corrupts its
    memory when it is given codes row by row.
    """
    return codec.code in ("sq", "pq")


def codes_of(index: FaissIndex, codec: Codec) -> UInt8[Tensor, "row byte"]:
    """The codes of all rows, in order; before each, the number of its list. See `has_row_codes`."""
    faiss = load_faiss()
    index = faiss.index_gpu_to_cpu(index) if _is_on_gpu(index) else index
    width = index.sa_code_size()
    if not codec.has_lists:
        return torch.from_numpy(faiss.vector_to_array(index.codes).reshape(index.ntotal, width))
    codes = np.empty((index.ntotal, width), dtype=np.uint8)
    for number in range(codec.nlist):
        size = index.invlists.list_size(number)
        if size == 0:
            continue
        rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
        inside = faiss.rev_swig_ptr(index.invlists.get_codes(number), size * index.code_size)
        prefix = number.to_bytes(width - index.code_size, "little")
        codes[rows, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
        codes[rows, len(prefix) :] = inside.reshape(size, index.code_size)
    return torch.from_numpy(codes)


def add_codes(index: FaissIndex, codec: Codec, codes: Tensor) -> None:
    """Add rows by their codes.

    Raises:
        DamagedCodecError: the codes are not of this quantiser.
    """
    width = index.sa_code_size()
    if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] != width:
        raise DamagedCodecError(
            f"codes of {codes.dtype}, shape {tuple(codes.shape)}; {codec} has {width} bytes"
        )
    if codec.has_lists and len(codes):
        prefix = codes[:, : width - index.code_size].long()
        numbers = (prefix << (8 * torch.arange(prefix.shape[1]))).sum(dim=1)
        if int(numbers.max()) >= codec.nlist:
            raise DamagedCodecError(f"a row in list {int(numbers.max())} of {codec.nlist}")
    index.add_sa_codes(codes.contiguous().numpy())


def on_device(index: FaissIndex, codec: Codec, device: torch.device) -> FaissIndex:
    """Move an index to a GPU, where both faiss and the kind of index allow it."""
    faiss = load_faiss()
    if device.type != "cuda" or codec.kind not in ON_GPU:
        return index
    if not hasattr(faiss, "StandardGpuResources"):
        logger.warning("--index_mode faiss: this build of faiss is for CPUs; searching there")
        return index
    settings = faiss.GpuClonerOptions()
    # The tables of long codes fit into a GPU's shared memory in float16 only.
    settings.useFloat16 = codec.kind == "ivfpq"
    resources = faiss.StandardGpuResources()
    try:
        moved = faiss.index_cpu_to_gpu(resources, device.index or 0, index, settings)
    except RuntimeError as error:
        logger.warning("faiss keeps %s on the CPU: %s", codec, _last_line(error))
        return index
    # faiss does not keep them alive.
    moved.resources = resources
    return moved


def search(
    index: FaissIndex, queries: Float[Tensor, "query dim"], width: int, *, nprobe: int
) -> tuple[Tensor, Tensor]:
    """The best rows by their codes, in no particular order among equals.

    Args:
        index: on any device.
        queries: on the CPU.
        width: rows asked for.
        nprobe: lists searched; 0 for kinds without.

    Returns:
        Scores (float32) and rows (int64), (query, width); -inf and -1 where there are fewer, on
        the CPU.
    """
    if nprobe:
        index.nprobe = min(nprobe, MOST_ON_GPU) if _is_on_gpu(index) else nprobe
    scores, rows = index.search(_numpy(queries), width)
    rows = torch.from_numpy(rows)
    return torch.from_numpy(scores).masked_fill(rows < 0, float("-inf")), rows


def most_hits(index: FaissIndex) -> int:
    """How many hits one query may ask for."""
    return MOST_ON_GPU if _is_on_gpu(index) else index.ntotal


def _require_kind(index: FaissIndex, codec: Codec) -> None:
    faiss = load_faiss()
    found = {
        "dimension": (index.d, codec.dim),
        "rows": (index.ntotal, 0),
        "metric": (index.metric_type, faiss.METRIC_INNER_PRODUCT),
        "trained": (bool(index.is_trained), True),
        "lists": (getattr(index, "nlist", 0), codec.nlist),
        "bytes": (getattr(index, "code_size", codec.code_size), codec.code_size),
    }
    for name, (value, expected) in found.items():
        if value != expected:
            raise DamagedCodecError(f"{name} {value}, expected {expected}")


def _is_on_gpu(index: FaissIndex) -> bool:
    return hasattr(index, "getDevice")


def _numpy(vectors: Tensor) -> np.ndarray:
    """float32 and contiguous; of a memory map nothing is copied."""
    return vectors.detach().float().contiguous().numpy()


def _last_line(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]
