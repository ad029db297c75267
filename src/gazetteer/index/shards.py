"""Which rows belong to whom: contiguous ranges, as even as possible."""

from __future__ import annotations


def shard_range(count: int, part: int, parts: int) -> range:
    """Rows of part `part` of `parts`: contiguous, in order, sizes differing by at most one.

    Parts may be empty when there are more of them than rows.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part must be in 0..{parts - 1}, got {part}")
    return range(count * part // parts, count * (part + 1) // parts)


def overlap(first: range, second: range) -> range:
    """Rows that two contiguous ranges share."""
    return range(max(first.start, second.start), min(first.stop, second.stop))
