"""Training lines with negatives out of a file of them, as OpenMatch's script of this name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training_lines import parser_of, run

from gazetteer.one_line_errors import exit_code


def build_parser() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = parser_of("build_train.py", (__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--negative_file",
        type=Path,
        required=True,
        help="query id, tab, document ids with commas between them",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = build_parser().parse_args(arguments)
    return exit_code("build_train", lambda: run(options, "negatives", options.negative_file))


if __name__ == "__main__":
    sys.exit(main())
