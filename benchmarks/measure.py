"""How everything here is measured: interleaved repetitions, medians, a table and a JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one contestant."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Median of the repetitions."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:9.4f} s  [{min(self.seconds):.4f} - {max(self.seconds):.4f}]"


def interleave(
    contestants: Mapping[str, Callable[[], object]],
    repetitions: int,
    clock: Callable[[], float],
    *,
    warm_up: int = 1,
) -> dict[str, Timing]:
    """Run all contestants in turn, again and again, so that drift hits them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repetition in range(warm_up + repetitions):
        for name, work in contestants.items():
            start = clock()
            work()
            if repetition >= warm_up:
                seconds[name].append(clock() - start)
    return {name: Timing(values) for name, values in seconds.items()}


def report(
    name: str, title: str, timings: Mapping[str, Timing], peer: str, facts: Mapping[str, object]
) -> None:
    """Print a table with the peer's time divided by each contestant's, and write it as JSON."""
    print(f"\n{title}")
    for key, value in facts.items():
        print(f"  {key}: {value}")
    width = max(map(len, timings))
    for contestant, timing in timings.items():
        ratio = timings[peer].median / timing.median
        print(f"  {contestant:{width}}  {timing}  {ratio:6.2f} x")
    document = {
        "title": title,
        "peer": peer,
        "facts": dict(facts),
        "seconds": {key: timing.seconds for key, timing in timings.items()},
        "speed_over_peer": {k: timings[peer].median / t.median for k, t in timings.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
