"""Progress bars: rate and time left, on stderr, on one rank."""

from __future__ import annotations

from tqdm import tqdm


def progress(total: int | None, description: str, unit: str, *, enabled: bool) -> tqdm:
    """A bar to `update`; used as a context. Draws nothing when not enabled.

    Args:
        total: units in all; None when unknown.
        description: what is going on.
        unit: what is counted, singular.
        enabled: usually: this is rank 0, and `--no_progress` is off.
    """
    return tqdm(
        total=total,
        desc=description,
        unit=f" {unit}",
        # Bytes run into billions, and read better as MB and GB.
        unit_scale=unit == "B",
        disable=not enabled,
        dynamic_ncols=True,
    )
