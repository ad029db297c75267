"""How the learning rate moves: a pure function of the step, so there is no state to save."""

import math
from typing import Literal, assert_never

ScheduleKind = Literal["linear", "cosine", "fixed"]
"""Values of `--scheduler`."""

FLOOR_RATIO = 0.1
"""Fraction of the learning rate left at the end of the schedule. Source: Atlas (util.py:67-108)."""


def learning_rate_factor(
    kind: ScheduleKind, step: int, *, warmup_steps: int, total_steps: int
) -> float:
    """Say by how much the learning rate is multiplied at a step.

    - linear: from 0.1 up to 1 over the warm-up, down to 0.1 at `total_steps`, and on down to 0.
    - cosine: from 0 up to 1, then a quarter cosine down to 0.1 at `total_steps`, where it stays.
    - fixed: from 0 up to 1, where it stays.

    Args:
        kind: the shape.
        step: updates done so far, so the first update asks for 0.
        warmup_steps: updates before the peak; 0 starts at the peak.
        total_steps: updates in the schedule. May equal `warmup_steps`, or be less: then the
            warm-up still runs in full.

    Returns:
        A factor in 0..1.

    Source:
        Atlas (util.py:67-108), except that its cosine turned negative after `total_steps`, and
        that it divided by zero for total_steps = warmup_steps.
    """
    if step < warmup_steps:
        start = FLOOR_RATIO if kind == "linear" else 0.0
        return start + (1.0 - start) * step / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    if kind == "linear":
        return max(0.0, 1.0 - (1.0 - FLOOR_RATIO) * progress)
    if kind == "cosine":
        return FLOOR_RATIO + (1.0 - FLOOR_RATIO) * math.cos(0.5 * math.pi * min(progress, 1.0))
    if kind == "fixed":
        return 1.0
    assert_never(kind)
