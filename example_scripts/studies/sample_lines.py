"""Draw lines of a file by chance: a few-shot set of any size, the same for the same seed."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path


def sample(lines: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` lines (all, if there are fewer) chosen by `seed`, in their own order."""
    chosen = random.Random(seed).sample(range(len(lines)), min(count, len(lines)))
    return [lines[place] for place in sorted(chosen)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error(f"--count ({options.count}) must be at least 1")
    if not options.source.is_file():
        parser.error(f"--source ({options.source}) must be an existing file")
    # By line feeds alone: other line separators may stand in a text.
    lines = [line for line in options.source.read_text("utf-8").split("\n") if line.strip()]
    chosen = sample(lines, options.count, options.seed)
    options.output.write_text("".join(f"{line}\n" for line in chosen), "utf-8")
    print(f"{options.output}: {len(chosen)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
