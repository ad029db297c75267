"""Train retriever and reader together.   torchrun --nproc_per_node 2 train.py --help"""

import sys

from gazetteer.program import run_program
from gazetteer.training.loop import train


def main() -> int:
    """Parse, launch, train."""
    return run_program("train", train)


if __name__ == "__main__":
    sys.exit(main())
