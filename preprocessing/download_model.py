"""Download a trained model of Atlas, reader and retriever in one file.

Pass its folder to --model_path. Keys are listed by --help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from release_files import MODEL_FILES, MODELS, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return run(arguments, "model", MODELS, MODEL_FILES)


if __name__ == "__main__":
    sys.exit(main())
