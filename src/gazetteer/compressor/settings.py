"""What a compressor is, as its folder says: enough to build it again and to give it its inputs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from gazetteer.errors import CheckpointError
from gazetteer.files import replace_json

CompressorKind = Literal["n_layers", "encoder", "pool"]
Pooling = Literal["memory", "mean", "first"]

SETTINGS_FILE = "compressor.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressorSettings:
    """How passages become vectors.

    Attributes:
        kind: n_layers: a copy of the reader's first layers; encoder: another model; pool: the
            reader's own.
        pooling: memory: learned tokens at the end; mean: over spans; first: the first states.
        vectors: of a passage, at most; a passage never gets more vectors than it has tokens.
        rate: passage tokens for each vector; None: `vectors` for each passage.
        format: what is read, with `{query}` or without.
        max_tokens: of query and passage together; the rest is cut.
        max_passage_tokens: of the passage alone; None: as many as fit.
        has_relevance: one more learned token says how relevant a passage is.
    """

    kind: CompressorKind
    pooling: Pooling
    vectors: int
    rate: float | None
    format: str
    max_tokens: int
    max_passage_tokens: int | None = None
    has_relevance: bool = False

    @property
    def asked_rate(self) -> float | None:
        """Passage tokens for each vector where passages are as long as may be; None: any."""
        if self.rate is None and self.max_passage_tokens is not None:
            return self.max_passage_tokens / self.vectors
        return self.rate

    @property
    def learned_tokens(self) -> int:
        """Of one sequence, at most."""
        return (self.vectors if self.pooling == "memory" else 0) + int(self.has_relevance)

    def save(self, folder: Path) -> None:
        """Write `compressor.json`."""
        replace_json(folder / SETTINGS_FILE, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> CompressorSettings:
        """Read what `save` wrote.

        Raises:
            CheckpointError: it is not there, or not what it should be.
        """
        path = folder / SETTINGS_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            settings = cls(**{each.name: values[each.name] for each in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: no settings of a compressor ({error})") from None
        settings.require_sound(str(path))
        return settings

    def require_sound(self, source: str) -> None:
        """Check types and ranges.

        Raises:
            CheckpointError: naming `source` and the field.
        """
        counts = {"vectors": self.vectors, "max_tokens": self.max_tokens}
        if self.max_passage_tokens is not None:
            counts["max_passage_tokens"] = self.max_passage_tokens
        is_sound = {
            "kind": self.kind in get_args(CompressorKind),
            "pooling": self.pooling in get_args(Pooling),
            "format": isinstance(self.format, str),
            "has_relevance": isinstance(self.has_relevance, bool),
            "rate": self.rate is None or (isinstance(self.rate, int | float) and self.rate > 0),
        } | {n: isinstance(v, int) and v > 0 for n, v in counts.items()}
        for name in (name for name, sound in is_sound.items() if not sound):
            raise CheckpointError(f"{source}: '{name}' is {getattr(self, name)!r}")
