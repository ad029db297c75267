"""Which layers of teacher and student are compared, and when others are drawn.

A pure function of seed and step: nothing to save, nothing for ranks to agree on, and no other
interval of a run has a say in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

LayerSelection = Literal["random", "last", "skip"]
"""Values of `--layer_selection`."""


@dataclass(frozen=True, slots=True)
class LayerPairs:
    """The i-th layer of the teacher teaches the i-th of the student; both ascend.

    Layers are those of the transformer, from 0; the embeddings below are none.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]


NO_LAYERS = LayerPairs((), ())
"""Where nothing but final scores is compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChooser:
    """How layers are paired.

    Attributes:
        selection: "random": drawn for each model by itself; "last": the uppermost of both;
            "skip": the student's uppermost, and the teacher's at even distances from its first.
        count: pairs; 0 compares the final scores only.
        student_layers: of the student's transformer.
        teacher_layers: of the teacher's.
        resample_steps: steps until random layers are drawn anew.
        seed: of the run.
    """

    selection: LayerSelection
    count: int
    student_layers: int
    teacher_layers: int
    resample_steps: int
    seed: int

    def __post_init__(self) -> None:
        fewest = min(self.student_layers, self.teacher_layers)
        if not 0 <= self.count <= fewest:
            raise ValueError(f"{self.count} pairs of layers, but one model has {fewest} layers")
        if self.resample_steps < 1:
            raise ValueError(f"resample_steps must be at least 1, got {self.resample_steps}")

    def at(self, step: int) -> LayerPairs:
        """The pairs of the (0-based) step, the same on every rank and after a resume.

        Source:
            LEAD draws anew whenever it saves; "last" and "skip" of 12 and 6 layers are its lists.
        """
        if self.selection == "random":
            drawing = np.random.default_rng([self.seed, step // self.resample_steps])
            return LayerPairs(
                _sorted_draw(drawing, self.student_layers, self.count),
                _sorted_draw(drawing, self.teacher_layers, self.count),
            )
        student = _last(self.student_layers, self.count)
        if self.selection == "last":
            return LayerPairs(student, _last(self.teacher_layers, self.count))
        distance = self.teacher_layers // max(1, self.count)
        return LayerPairs(student, tuple(range(0, distance * self.count, distance or 1)))


def _sorted_draw(drawing: np.random.Generator, layers: int, count: int) -> tuple[int, ...]:
    return tuple(sorted(drawing.choice(layers, size=count, replace=False).tolist()))


def _last(layers: int, count: int) -> tuple[int, ...]:
    return tuple(range(layers - count, layers))
