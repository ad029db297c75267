"""What the programs that prepare data share: their folder, their files, their way to fail."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gazetteer.files import sync

SHOTS = 64


def data_folder(output_directory: Path) -> Path:
    """Where Atlas puts data: `data` below, unless the folder given is called that itself.

    Atlas's README passes both DIR and DIR/data, and reads DIR/data/nq_data either way.
    """
    is_itself = output_directory.name == "data"
    return output_directory if is_itself else output_directory / "data"


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON objects, one per line, under another name, and put them in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    sync(temporary)
    temporary.replace(path)
    print(f"{path}: {count} lines")


def few(rows: Sequence[Mapping[str, Any]], seed: int) -> list[Mapping[str, Any]]:
    """`SHOTS` rows (all, if there are fewer) chosen by `seed`, in their own order.

    Not the choice of Atlas, whose 64 line numbers are part of its program.
    """
    chosen = random.Random(seed).sample(range(len(rows)), min(SHOTS, len(rows)))
    return [rows[place] for place in sorted(chosen)]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--output_directory` and `--seed`, described by a module's first line."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument(
        "--output_directory",
        type=Path,
        required=True,
        help="files go to its folder data/, what was downloaded to data/downloads/",
    )
    parser.add_argument("--seed", type=int, default=0, help=f"of the choice of {SHOTS} examples")
    return parser
