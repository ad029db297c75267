"""Evaluate reader and retriever, or the retriever alone.   python evaluate.py --help"""

import sys

from gazetteer.evaluation.run import evaluate
from gazetteer.program import run_program


def main() -> int:
    """Parse, launch, evaluate."""
    return run_program("evaluate", evaluate)


if __name__ == "__main__":
    sys.exit(main())
