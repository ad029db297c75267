"""Training lines with hard negatives out of a run, as OpenMatch's script of this name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training_lines import add_margin, parser_of, positive, run

from gazetteer.one_line_errors import exit_code


def build_parser() -> argparse.ArgumentParser:
    """The program's flags."""
    parser = parser_of("build_hn.py", (__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--hn_file", type=Path, required=True, help="a run: TREC's six columns, or three"
    )
    parser.add_argument("--depth", type=positive, default=200, help="candidates per query")
    add_margin(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code."""
    options = build_parser().parse_args(arguments)
    return exit_code("build_hn", lambda: run(options, "run", options.hn_file))


if __name__ == "__main__":
    sys.exit(main())
