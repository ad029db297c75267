"""A retriever for other tools, or models alone.   python -m gazetteer.export --help"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gazetteer.export.folders import export_openmatch, export_sentence_transformers
from gazetteer.export.models import export_models
from gazetteer.one_line_errors import exit_code

TARGETS = {
    "sentence-transformers": export_sentence_transformers,
    "openmatch": export_openmatch,
    "models": export_models,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, and say what is wrong in one line.

    Returns:
        The exit code.
    """
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    export = TARGETS[parsed.to]
    return exit_code("gazetteer.export: error", lambda: export(parsed.source, parsed.output))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gazetteer.export",
        description="Write a trained retriever, with a model card, for other tools. Adapters are "
        "merged into the weights. Untied towers become a folder each: query/ and passage/. "
        "With `--to models` all models as they are, for --model_path, without the run's state.",
        epilog="exit codes: 0 done, 2 something is wrong, said in one line",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source", metavar="CHECKPOINT", help="checkpoint folder, or folder or name of a retriever"
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="must not exist")
    parser.add_argument("--to", choices=list(TARGETS), default="sentence-transformers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
