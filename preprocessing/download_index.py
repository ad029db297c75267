"""Download an index of enwiki-dec2018 embedded by a released model of Atlas.

Pass its folder to --load_index_path. Keys are listed by --help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from release_files import INDEX_FILES, INDICES, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    return run(arguments, "index", INDICES, INDEX_FILES)


if __name__ == "__main__":
    sys.exit(main())
