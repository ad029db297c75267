"""One output folder, one training: another model or other data begins anew, and nothing is lost.

ScaleDown's guide gives several trainings the same folder. Going on with the first one there would
report a model that is not the one asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gazetteer.compress.records import OfflineRecord, object_of
from gazetteer.errors import DataError
from gazetteer.files import replace_json

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
EARLIER = "earlier-"
OF_A_MODEL = (
    "compressor_type", "compressor_model", "num_layers", "compressor_pooling", "num_memory_tokens",
    "compression_rate", "query_independent", "generator_model", "lora_rank", "seed",
)  # fmt: skip
"""Flags without which it is another model; more epochs or another rate go on with the same one."""


def settings_of(values: argparse.Namespace, learned: Sequence[OfflineRecord]) -> dict[str, Any]:
    """What a training is, by flag."""
    digest = hashlib.sha256()
    for record in learned:
        digest.update(json.dumps(object_of(record), sort_keys=True).encode())
    found = {f"--{name}": getattr(values, name) for name in OF_A_MODEL}
    if values.compressor_type == "n_layers":
        del found["--compressor_model"]
    else:
        del found["--num_layers"]
    return found | {"--train_data": digest.hexdigest()}


def make_room(folder: Path, settings: dict[str, Any]) -> None:
    """Note what this training is; put another one that is there aside, into `earlier-N`.

    Args:
        folder: `--output_dir`.
        settings: of `settings_of`.

    Raises:
        DataError: the folder cannot be written, or what was noted cannot be read.
    """
    path = folder / SETTINGS
    try:
        noted = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else settings
        if noted != settings:
            names = sorted(set(noted) | set(settings))
            changed = [name for name in names if noted.get(name) != settings.get(name)]
            logger.warning(
                "%s held a training with other %s: it is in %s now",
                folder, ", ".join(changed), _put_aside(folder),
            )  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(path, settings)
    except ValueError:
        raise DataError(
            f"{path}: not valid JSON; remove it, or give another --output_dir"
        ) from None
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror} (--output_dir)") from None


def _put_aside(folder: Path) -> Path:
    taken = {each.name for each in folder.glob(f"{EARLIER}*")}
    number = next(n for n in range(1, len(taken) + 2) if f"{EARLIER}{n}" not in taken)
    aside = folder / f"{EARLIER}{number}"
    aside.mkdir()
    for each in sorted(folder.iterdir()):
        if not each.name.startswith(EARLIER):
            each.rename(aside / each.name)
    return aside
