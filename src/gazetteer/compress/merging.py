"""One data set made by several processes: what each writes, and how that is joined."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gazetteer.compress.records import OfflineRecord, read_records, write_records
from gazetteer.dense.commands import require_writable
from gazetteer.errors import OptionError

logger = logging.getLogger(__name__)

SHARD_NAME = re.compile(r"\.shard-(\d+)-of-(\d+)\.json$")


def shard_file(output: Path, part: int, parts: int) -> Path:
    """Where one of several processes writes; the output itself, if it is the only one."""
    if parts == 1:
        return output
    width = len(str(parts - 1))
    name = f"{output.stem}.shard-{part:0{width}d}-of-{parts:0{width}d}.json"
    return output.with_name(name)


def merge(sources: Sequence[Path], output: Path) -> None:
    """Join outputs in their order; of shards, all have to be there.

    Raises:
        DataError: one of them cannot be read.
        OptionError: a shard is missing, or the output is one of them.
    """
    if output.resolve() in [path.resolve() for path in sources]:
        raise OptionError(f"--output_file ({output}) must be none of --merge")
    ordered = _in_order(sources)
    require_writable(output, "--output_file")

    def records() -> Iterator[OfflineRecord]:
        for path in ordered:
            yield from read_records(path, flag="--merge")

    logger.info(
        "%s: %d records of %d files", output, write_records(output, records()), len(ordered)
    )


def _in_order(sources: Sequence[Path]) -> list[Path]:
    """Shards by number, others as they were named.

    Raises:
        OptionError: one of the shards is missing, or there twice.
    """
    matches = [SHARD_NAME.search(path.name) for path in sources]
    if not all(matches):
        return list(sources)
    numbered = {int(match[1]): path for match, path in zip(matches, sources, strict=True) if match}
    counts = {int(match[2]) for match in matches if match}
    if len(counts) > 1 or sorted(numbered) != list(range(max(counts))):
        missing = sorted(set(range(max(counts))) - set(numbered))
        what = (
            f"shard {missing[0]} of {max(counts)} is missing" if missing else "shards of two kinds"
        )
        raise OptionError(f"--merge: {what}")
    if len(numbered) < len(sources):
        raise OptionError("--merge: a shard is named twice")
    return [numbered[number] for number in sorted(numbered)]
