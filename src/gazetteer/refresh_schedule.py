"""When the index is embedded anew: the syntax of `--refresh_index` and what it means.

Pure text and numbers. Doing the refresh is `gazetteer.indexing`'s work.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FOREVER = 2**32
"""Atlas's "never": one refresh in so many steps."""

_RANGE = re.compile(r"(\d+)-(\d+):(\d+)", re.ASCII)
_NUMBER = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class RefreshRange:
    """Refresh every `rate` steps from `start` (included) to `end` (excluded)."""

    start: int
    end: int
    rate: int

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.end


def parse_refresh_schedule(text: str) -> tuple[RefreshRange, ...]:
    """Read `-1` (never), `500` (every 500 steps) or `0-1000:500,1000-10000:2000` (start-end:rate).

    Raises:
        ValueError: the text is none of these, a range is empty or a rate is 0.

    Source:
        Atlas reads `-1` as one refresh in 2^32 steps, and a number as a rate from step 0 on.
    """
    if text.strip() == "-1":
        return (RefreshRange(0, FOREVER, FOREVER),)
    if _NUMBER.fullmatch(text.strip()):
        return (_checked_range(0, FOREVER, int(text), text),)
    return tuple(_parse_range(part.strip()) for part in text.split(","))


def is_refresh_step(
    schedule: tuple[RefreshRange, ...], step: int, train_retriever: bool, freeze_steps: int
) -> bool:
    """Tell whether the index is embedded anew before update `step`.

    Args:
        schedule: from `parse_refresh_schedule`; the first range that contains `step` decides.
        step: updates done so far; 0 before the first one. Step 0 is always a refresh: it builds
            the index (the caller skips it when a saved index was loaded).
        train_retriever: False leaves step 0 alone, as nothing can become stale.
        freeze_steps: the retriever is frozen before this step, so nothing is refreshed between
            step 0 and here; -1 = not frozen.

    Source:
        Atlas: refreshes when (step - start) % rate == 0, the step taken before it is counted up.
    """
    if step == 0:
        return True
    if not train_retriever or step < freeze_steps:
        return False
    current = next((range_ for range_ in schedule if step in range_), None)
    return current is not None and (step - current.start) % current.rate == 0


def covers(schedule: tuple[RefreshRange, ...], step: int) -> bool:
    """Tell whether any range speaks about `step`; Atlas warns where none does."""
    return any(step in range_ for range_ in schedule)


def first_gap(schedule: tuple[RefreshRange, ...], start: int, end: int) -> range | None:
    """The first steps from `start` to `end` (excluded) that no range speaks about; None if none."""
    # Whether a step is covered changes only where a range starts or ends.
    edges = {edge for range_ in schedule for edge in (range_.start, range_.end)}
    candidates = sorted({start} | {edge for edge in edges if start <= edge})
    first = next((step for step in candidates if step < end and not covers(schedule, step)), None)
    if first is None:
        return None
    later = (edge for edge in candidates if edge > first and covers(schedule, edge))
    return range(first, min(next(later, end), end))


def _parse_range(text: str) -> RefreshRange:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not start-end:rate")
    start, end, rate = (int(number) for number in match.groups())
    return _checked_range(start, end, rate, text)


def _checked_range(start: int, end: int, rate: int, text: str) -> RefreshRange:
    if rate < 1:
        raise ValueError(f"'{text}' has rate 0; the smallest is 1, and -1 alone means never")
    if end <= start:
        raise ValueError(f"'{text}' ends before it starts")
    return RefreshRange(start, end, rate)
