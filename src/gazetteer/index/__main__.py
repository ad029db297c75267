"""Look at saved indexes, check, convert and merge them.   python -m gazetteer.index --help"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from gazetteer.errors import GazetteerError, OptionError
from gazetteer.index.atlas_files import is_atlas_folder
from gazetteer.index.conversion import Layout, export_atlas, import_atlas, merge, rewrite
from gazetteer.index.description import describe_atlas, describe_saved, shown_json, shown_text
from gazetteer.index.encoders import MAX_TOKENS, UNKNOWN_ENCODER, load_encoder
from gazetteer.index.manifest import MANIFEST, EncoderIdentity
from gazetteer.index.verification import content_bytes, find_problems
from gazetteer.one_line_errors import exit_code
from gazetteer.option_rules import retriever_format_problems
from gazetteer.progress import progress

DTYPES = {"keep": None, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
USUAL: dict[str, Any] = {
    "retriever_format": "{title} {text}",
    "retriever_pooling": "mean",
    "retriever_normalize": False,
    "text_maxlength": MAX_TOKENS,
}
"""How an index was made by an encoder of which nothing else is said."""
EXIT_CODES = """exit codes: 0 done, 2 something is wrong, said in one line for each thing"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, and say what is wrong in one line.

    Returns:
        The exit code.
    """
    parsed = build_parser().parse_args(arguments)
    # Of a model of some megabytes, it would only hide what is said.
    disable_progress_bar()
    return exit_code("gazetteer.index: error", lambda: parsed.run(parsed))


def build_parser() -> argparse.ArgumentParser:
    """The four commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="python -m gazetteer.index", description=__doc__, epilog=EXIT_CODES
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_info(commands)
    _add_verify(commands)
    _add_convert(commands)
    _add_merge(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=text, description=text, epilog=EXIT_CODES, allow_abbrev=False
    )


def _add_info(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "info", "show what saved indexes say of themselves")
    command.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="ours or Atlas's")
    command.add_argument("--json", action="store_true", help="one JSON object per index and line")
    command.set_defaults(run=_info)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "compare every file of saved indexes with its hash, and their passages with them"
    command = _command(commands, "verify", text)
    command.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="a saved index")
    _add_no_progress(command)
    command.set_defaults(run=_verify)


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "copy an index: from Atlas's files, to them, or into another number of files"
    command = _command(commands, "convert", text)
    command.add_argument("folder", metavar="DIR", type=Path, help="a saved index, ours or Atlas's")
    command.add_argument(
        "--to", choices=["gazetteer", "atlas"], default="gazetteer", help="format to write"
    )
    _add_layout(command)
    encoder = command.add_argument_group(
        "what made an index of Atlas",
        "Its files do not say. Without these, the index is used with --allow_stale_index only.",
    )
    encoder.add_argument("--encoder_model", metavar="NAME", help="retriever: folder or hub name")
    encoder.add_argument(
        "--retriever_format", metavar="TEXT", help=f"what it embedded [{USUAL['retriever_format']}]"
    )
    poolings = ["mean", "cls", "sqrt", "first_decoder_token"]
    encoder.add_argument("--retriever_pooling", choices=poolings, help="[mean]")
    encoder.add_argument("--retriever_normalize", action="store_true", help="to length 1")
    encoder.add_argument(
        "--text_maxlength", type=_positive, help=f"tokens it saw of a passage [{MAX_TOKENS}]"
    )
    encoder.add_argument("--step", type=_whole, help="training step it was made at [0]")
    command.set_defaults(run=_convert)


def _add_merge(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "put indexes of different passages, made by one encoder, into one, in the order given"
    command = _command(commands, "merge", text)
    command.add_argument("folders", metavar="DIR", type=Path, nargs="+", help="a saved index")
    _add_layout(command)
    command.set_defaults(run=_merge)


def _add_layout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="must not exist yet"
    )
    command.add_argument("--files", type=_positive, default=128, help="files of vectors to write")
    command.add_argument(
        "--dtype", choices=list(DTYPES), default="keep", help="of the vectors (Atlas's are fp16)"
    )
    _add_no_progress(command)


def _add_no_progress(command: argparse.ArgumentParser) -> None:
    command.add_argument("--no_progress", action="store_true", help="draw no bars")


def _positive(text: str) -> int:
    return _at_least(1, text)


def _whole(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isascii() or not text.removeprefix("-").isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
    return int(text)


def _info(arguments: argparse.Namespace) -> int:
    shown = shown_json if arguments.json else shown_text
    for folder in arguments.folders:
        is_atlas = not (folder / MANIFEST).exists() and _is_atlas(folder)
        described = describe_atlas(folder) if is_atlas else describe_saved(folder)
        sys.stdout.write(shown(described))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    problems = []
    for folder in arguments.folders:
        size = content_bytes(folder) if folder.is_dir() else 0
        with progress(size, "verifying", "B", enabled=not arguments.no_progress) as bar:
            found = find_problems(folder, bar.update)
        sys.stdout.write("".join(f"{line}\n" for line in found) or f"{folder}: sound\n")
        problems += found
    return GazetteerError.exit_code if problems else 0


def _convert(arguments: argparse.Namespace) -> int:
    folder, output, layout = arguments.folder, arguments.output, _layout(arguments)
    is_atlas = not (folder / MANIFEST).exists() and _is_atlas(folder)
    _check_convert(arguments, is_atlas)
    if is_atlas:
        import_atlas(folder, output, layout, encoder=_encoder(arguments), step=arguments.step or 0)
    elif arguments.to == "atlas":
        export_atlas(folder, output, layout)
    else:
        rewrite(folder, output, layout)
    return 0


def _check_convert(arguments: argparse.Namespace, is_atlas: bool) -> None:
    """Refuse what would have no effect."""
    if is_atlas and arguments.to == "atlas":
        raise OptionError(f"--to atlas: {arguments.folder} is Atlas's already")
    if arguments.to == "atlas" and arguments.dtype not in ("keep", "fp16"):
        raise OptionError(f"--dtype {arguments.dtype}: Atlas's files are fp16")
    how = [f"--{name}" for name in USUAL if getattr(arguments, name) not in (None, False)]
    named = [f"--{n}" for n in ("encoder_model", "step") if getattr(arguments, n) is not None]
    if not is_atlas and (named or how):
        shown = ", ".join(named + how)
        raise OptionError(f"{shown}: {arguments.folder} says itself what made it and when")
    if how and arguments.encoder_model is None:
        raise OptionError(f"{', '.join(how)}: must come with --encoder_model, what made the index")
    if arguments.retriever_format is not None:
        for problem in retriever_format_problems(arguments.retriever_format):
            raise OptionError(problem)


def _merge(arguments: argparse.Namespace) -> int:
    merge(arguments.folders, arguments.output, _layout(arguments))
    return 0


def _layout(arguments: argparse.Namespace) -> Layout:
    return Layout(
        files=arguments.files,
        dtype=DTYPES[arguments.dtype],
        show_progress=not arguments.no_progress,
    )


def _is_atlas(folder: Path) -> bool:
    return folder.is_dir() and is_atlas_folder(folder)


def _encoder(arguments: argparse.Namespace) -> EncoderIdentity:
    if arguments.encoder_model is None:
        return UNKNOWN_ENCODER
    given = {name: getattr(arguments, name) for name in USUAL}
    how = USUAL | {name: value for name, value in given.items() if value is not None}
    settings = EncoderIdentity(
        weights=UNKNOWN_ENCODER.weights,
        tokenizer=UNKNOWN_ENCODER.tokenizer,
        template=how["retriever_format"],
        pooling=how["retriever_pooling"],
        normalize=how["retriever_normalize"],
        max_tokens=min(how["text_maxlength"], MAX_TOKENS),
    )
    return load_encoder(arguments.encoder_model, settings)[2]


if __name__ == "__main__":
    sys.exit(main())
