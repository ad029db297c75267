"""The models of a checkpoint alone, without the state of the run that trained them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from gazetteer.build import READER_FOLDER, RETRIEVER_FOLDER
from gazetteer.build_compressor import COMPRESSOR_FOLDER
from gazetteer.errors import CheckpointError
from gazetteer.files import require_intact, write_manifest
from gazetteer.index.conversion import appearing_folder

logger = logging.getLogger(__name__)

FOLDERS = (READER_FOLDER, RETRIEVER_FOLDER, COMPRESSOR_FOLDER)


def export_models(source: str, target: Path) -> None:
    """Copy the models and hash them again: a folder for `--model_path` that can be passed on.

    Left out are optimisers, random states and options: large, or about the machine that trained.

    Args:
        source: folder of a checkpoint.
        target: must not exist.

    Raises:
        CheckpointError: it is no checkpoint, or damaged.
        IndexFileError: there is a target already.
    """
    folder = Path(source)
    require_intact(folder)
    there = [name for name in FOLDERS if (folder / name).is_dir()]
    if not there:
        raise CheckpointError(f"{folder}: no models in this checkpoint")
    with appearing_folder(target) as partial:
        for name in there:
            shutil.copytree(folder / name, partial / name)
        write_manifest(partial)
    logger.info("written: %s (%s)", target, ", ".join(there))
