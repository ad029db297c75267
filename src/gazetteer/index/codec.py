"""Which quantiser a corpus gets: what was asked for, fitted to its dimension and its size."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Literal

from gazetteer.errors import OptionError

logger = logging.getLogger(__name__)

CodecKind = Literal["flat", "sq", "pq", "pqfs", "ivfflat", "ivfsq", "ivfpq", "ivfpqfs"]
"""`ivf`: only some lists are searched; `sq`: each number rounded; `pq`: groups of numbers replaced
by the nearest of 256 centroids; `fs`: of 16 centroids, in the layout of faiss's fast scan."""

FEWEST_ROWS = {"sq": 1, "pq": 256, "pqfs": 16}
"""Rows a quantiser can be trained on, by kind without lists: one for each centroid of a group."""
SCALAR_BITS = (4, 6, 8, 16)
ROWS_PER_LIST = 64
LEAST_SAMPLE = 65_536
"""Rows; 256 for each of 256 centroids, beyond which faiss takes a sample itself."""
LEAST_PROBED = 32
PROBED_SHARE = 8
CANDIDATES_PER_HIT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSettings:
    """What was asked for; None leaves it to us.

    Attributes:
        kind: of code (`--faiss_index_type`).
        code_size: bytes per passage (`--faiss_code_size`).
        nlist: lists in all (`--faiss_nlist`).
        nprobe: lists searched for each query (`--faiss_nprobe`).
        rescore: candidates per query whose scores are computed exactly; 0 = none (`--rescore`).
    """

    kind: CodecKind
    code_size: int | None = None
    nlist: int | None = None
    nprobe: int | None = None
    rescore: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """One quantiser, all decided: two that are equal are trained alike on the same vectors.

    Attributes:
        kind: of code.
        dim: of the vectors.
        code_size: bytes per vector, without the number of its list.
        nlist: lists; 0 for kinds without.
    """

    kind: CodecKind
    dim: int
    code_size: int
    nlist: int

    @property
    def has_lists(self) -> bool:
        """True where a query looks into some lists only."""
        return self.kind.startswith("ivf")

    @property
    def code(self) -> str:
        """The kind of code inside the lists: flat, sq, pq or pqfs."""
        return self.kind.removeprefix("ivf")

    @property
    def factory(self) -> str:
        """How faiss's index_factory calls it."""
        code = {
            "flat": "Flat",
            "sq": f"SQ{_scalar_bits(self.dim, self.code_size)}".replace("SQ16", "SQfp16"),
            # "np": polysemous training would take ten times as long, for nothing used here.
            "pq": f"PQ{self.code_size}np",
            "pqfs": f"PQ{2 * self.code_size}x4fs",
        }[self.code]
        return f"IVF{self.nlist},{code}" if self.has_lists else code

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in memory: its code and, in a list, its number."""
        return self.code_size + (8 if self.has_lists else 0)

    def sample_size(self, count: int) -> int:
        """How many of `count` rows to train on."""
        return min(count, max(LEAST_SAMPLE, ROWS_PER_LIST * self.nlist))

    def __str__(self) -> str:
        """Such as "ivfpq, 64 bytes, 1000 lists"."""
        lists = f", {self.nlist} lists" if self.has_lists else ""
        return f"{self.kind}, {self.code_size} bytes{lists}"


def plan_codec(settings: CodecSettings, *, count: int, dim: int) -> Codec:
    """Fit what was asked for to a corpus.

    A corpus too small to train the quantiser on is kept as it is (`flat`), and there are never more
    lists than rows; both are logged.

    Args:
        settings: what was asked for.
        count: rows in the whole index.
        dim: of the vectors.

    Raises:
        OptionError: the code size does not suit the dimension.
    """
    code_size = _code_size(settings, dim)
    code = settings.kind.removeprefix("ivf")
    if count < FEWEST_ROWS.get(code, 0) or count == 0:
        if settings.kind != "flat":
            logger.warning(
                "--faiss_index_type %s: %d passages are too few to train it on; kept as they are",
                settings.kind,
                count,
            )
        return Codec(kind="flat", dim=dim, code_size=4 * dim, nlist=0)
    nlist = _list_count(settings, count) if settings.kind.startswith("ivf") else 0
    return Codec(kind=settings.kind, dim=dim, code_size=code_size, nlist=nlist)


def allowed_code_sizes(kind: CodecKind, dim: int) -> tuple[int, ...]:
    """Bytes per passage that a kind can have, ascending."""
    code = kind.removeprefix("ivf")
    if code == "flat":
        return (4 * dim,)
    if code == "sq":
        return tuple(sorted({math.ceil(dim * bits / 8) for bits in SCALAR_BITS}))
    # A byte holds one group of numbers, or with fast scan two.
    groups = dim if code == "pq" else dim // 2
    is_possible = code == "pq" or dim % 2 == 0
    return tuple(n for n in range(1, groups + 1) if groups % n == 0) if is_possible else ()


def probed_lists(settings: CodecSettings, codec: Codec) -> int:
    """Lists searched for each query: all of at most 32, then an eighth if that is more.

    On 28,000 real passages in 167 lists, 32 of them cost 1 point of recall before rescoring and are
    four times as fast as all of them, which Atlas searches (docs/decisions/017-faiss-modes.md).
    """
    wanted = settings.nprobe or max(LEAST_PROBED, codec.nlist // PROBED_SHARE)
    return min(wanted, codec.nlist)


def candidates_for(settings: CodecSettings, codec: Codec, top_k: int) -> int | None:
    """Candidates whose exact scores decide about the top_k hits; None where the codes decide."""
    if codec.kind == "flat":
        # Nothing was lost but the last bits, which depend on faiss's batches: some to spare.
        return max(settings.rescore or 0, top_k + max(16, top_k // 4))
    wanted = CANDIDATES_PER_HIT * top_k if settings.rescore is None else settings.rescore
    return max(wanted, top_k) if wanted else None


def _code_size(settings: CodecSettings, dim: int) -> int:
    allowed = allowed_code_sizes(settings.kind, dim)
    if not allowed:
        raise OptionError(
            f"--faiss_index_type ({settings.kind}) needs embeddings of an even dimension, got {dim}"
        )
    is_asked = settings.code_size is not None and not settings.kind.endswith("flat")
    if is_asked and settings.code_size not in allowed:
        shown = ", ".join(str(size) for size in allowed)
        raise OptionError(
            f"--faiss_code_size ({settings.code_size}) must suit --faiss_index_type"
            f" {settings.kind} and embeddings of dimension {dim}: one of {shown}"
        )
    if is_asked and settings.code_size is not None:
        return settings.code_size
    # Atlas's ivfsq has 4 bits for each number.
    usual = {"flat": 4 * dim, "ivfflat": 4 * dim, "sq": dim, "ivfsq": math.ceil(dim / 2)}
    most = usual.get(settings.kind, dim // 8)
    return max((size for size in allowed if size <= most), default=allowed[0])


def _list_count(settings: CodecSettings, count: int) -> int:
    wanted = settings.nlist or math.isqrt(count)
    if wanted > count:
        logger.warning("--faiss_nlist %d: more than there are passages, so %d", wanted, count)
    return min(wanted, count)


def _scalar_bits(dim: int, code_size: int) -> int:
    return next((bits for bits in SCALAR_BITS if math.ceil(dim * bits / 8) == code_size), 8)
