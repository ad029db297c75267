"""Atlas's checkpoints to folders of transformers, and back.   python -m gazetteer.convert --help"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gazetteer.convert.atlas_checkpoint import ATLAS_FILE, atlas_file
from gazetteer.convert.conversion import ModelNames, export_atlas, import_atlas, is_ours
from gazetteer.errors import CheckpointError, OptionError
from gazetteer.one_line_errors import exit_code
from gazetteer.reader_names import full_reader_name, is_reader_name


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, convert, and say what is wrong in one line.

    Returns:
        The exit code.
    """
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    return exit_code("gazetteer.convert: error", lambda: convert(parsed))


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gazetteer.convert",
        description=__doc__,
        epilog="exit codes: 0 done, 2 something is wrong, said in one line",
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        metavar="CHECKPOINT",
        type=Path,
        help=f"Atlas's {ATLAS_FILE} or its folder, or a checkpoint folder of ours",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="must not exist")
    parser.add_argument(
        "--to", choices=["gazetteer", "atlas"], default="gazetteer", help="layout to write"
    )
    parser.add_argument(
        "--reader_model_type",
        metavar="NAME",
        help="T5 the reader was made of, for config and tokenizer: hub name or folder [what the "
        "checkpoint's options say]",
    )
    parser.add_argument(
        "--retriever_model_path",
        metavar="NAME",
        help="the same for the retriever [facebook/contriever]",
    )
    return parser


def convert(arguments: argparse.Namespace) -> None:
    """Convert as the command line says.

    Raises:
        GazetteerError: it cannot be.
    """
    source, output = arguments.source, arguments.output
    reader, retriever = arguments.reader_model_type, arguments.retriever_model_path
    if not source.exists():
        raise OptionError(f"{source}: is not there")
    if arguments.to == "atlas":
        if reader is not None or retriever is not None:
            raise OptionError("--reader_model_type, --retriever_model_path: without --to atlas")
        if not is_ours(source):
            raise CheckpointError(f"{source}: no checkpoint of ours (no manifest.json)")
        export_atlas(source, output)
        return
    path = atlas_file(source)
    if path is None:
        raise CheckpointError(f"{source}: no checkpoint of Atlas (no {ATLAS_FILE})")
    if reader is not None and not is_reader_name(reader):
        raise OptionError(f"--reader_model_type ({reader}): no T5 name, and no folder")
    names = ModelNames(
        reader=full_reader_name(reader) if reader else None,
        retriever=retriever or "facebook/contriever",
    )
    import_atlas(path, output, names)


if __name__ == "__main__":
    sys.exit(main())
