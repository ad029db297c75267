"""Download a corpus of passages, cut from a dump of Wikipedia, that Atlas was trained on.

Pass both files of it to --passages. Keys are listed by --help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from release_files import CORPORA, CORPUS_FILES, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return run(arguments, "corpus", CORPORA, CORPUS_FILES)


if __name__ == "__main__":
    sys.exit(main())
