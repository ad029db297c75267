"""Files of Atlas's release: which there are, and the program that fetches those of one key."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from gazetteer.downloading import fetch
from gazetteer.one_line_errors import exit_code

RELEASE = "https://dl.fbaipublicfiles.com/atlas"
SIZES = ("base", "large", "xl", "xxl")
INDEX_PARTS = 128

CORPORA = tuple(
    f"corpora/wiki/enwiki-{date}"
    for date in ("dec2017", "dec2018", "aug2019", "dec2020", "dec2021")
)
MODELS = tuple(f"models/{kind}/{size}" for kind in ("atlas", "atlas_nq") for size in SIZES)
INDICES = tuple(f"indices/{kind}/wiki/{size}" for kind in ("atlas", "atlas_nq") for size in SIZES)

CORPUS_FILES = ("text-list-100-sec.jsonl", "infobox.jsonl")
MODEL_FILES = ("model.pth.tar",)
INDEX_FILES = tuple(
    f"{kind}.{part}.pt" for part in range(INDEX_PARTS) for kind in ("embeddings", "passages")
)


def run(
    arguments: Sequence[str] | None, kind: str, keys: Sequence[str], files: Sequence[str]
) -> int:
    """`download_{kind}.py --{kind} KEY --output_directory DIR`; returns its exit code.

    Args:
        arguments: the words after the program's name; None = those of this process.
        kind: "corpus", "model" or "index".
        keys: what can be asked for.
        files: names below each key, here as there.
    """
    parser = argparse.ArgumentParser(description=f"Download a released {kind} of Atlas.")
    parser.add_argument(
        f"--{kind}", dest="key", required=True, choices=keys, metavar="KEY", help=", ".join(keys)
    )
    parser.add_argument("--output_directory", type=Path, required=True, help="files go to its KEY/")
    options = parser.parse_args(arguments)
    return exit_code(f"download_{kind}", _fetcher(options.key, files, options.output_directory))


def _fetcher(key: str, files: Sequence[str], output_directory: Path) -> Callable[[], None]:
    def work() -> None:
        for name in files:
            fetch(f"{RELEASE}/{key}/{name}", output_directory / key / name)

    return work
