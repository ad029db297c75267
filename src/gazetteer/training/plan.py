"""Which step does what: the flags count micro-batches, updates are counted here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The steps of a run. All numbers are micro-batches, the unit of the flags.

    Attributes:
        total: micro-batches in all; exact.
        accumulation: micro-batches per update; the last update takes what is left.
        warmup: micro-batches until the learning rate peaks.
        schedule: micro-batches in the schedule.
        log: between two lines of statistics.
        evaluate: between two evaluations.
        save: between two checkpoints.
        size: examples that a step reads, all workers together.
        passes: in which it reads them.
        examples: read by all ranks in the whole run; None where only the steps end it.
    """

    total: int
    accumulation: int
    warmup: int
    schedule: int
    log: int
    evaluate: int
    save: int
    size: int
    passes: int = 1
    examples: int | None = None

    def micro_batches_of_next_update(self, done: int) -> int:
        """How many micro-batches the update after `done` micro-batches has."""
        return min(self.accumulation, self.total - done)

    def updates(self, micro_batches: int) -> int:
        """Updates that so many micro-batches make."""
        return -(-micro_batches // self.accumulation)


def falls_due(frequency: int, before: int, after: int) -> bool:
    """True if a multiple of `frequency` lies in (before, after].

    With accumulation, an update covers several micro-batches; what falls due inside it is done at
    its end.
    """
    return after // frequency > before // frequency
