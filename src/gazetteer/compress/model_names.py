"""Models by name: which file is a GGUF, and what identifies the weights behind a name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from gazetteer.errors import CheckpointError
from gazetteer.files import file_digest

OF_A_MODEL = (".safetensors", ".gguf", ".json", ".model", ".bin", ".jinja", ".txt")
"""Files that decide what a model gives."""


def gguf_of(name: str) -> tuple[str, str] | None:
    """Folder and file of a GGUF: the file itself, or a folder with exactly one; None for others."""
    path = Path(name)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return str(path.parent), path.name
    if path.is_dir() and not (path / "config.json").is_file():
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return str(path), files[0].name
    return None


def config_of(name: str, flag: str) -> Any:  # noqa: ANN401 - each type of model has its own class
    """The config of a model, GGUF included.

    Raises:
        CheckpointError: nothing usable under that name, in one line.
    """
    gguf = gguf_of(name)
    try:
        if gguf is not None:
            return AutoConfig.from_pretrained(gguf[0], gguf_file=gguf[1])
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise cannot_load(name, error, flag) from None


def cannot_load(name: str, error: Exception, flag: str) -> CheckpointError:
    """The error of a model that could not be loaded, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return CheckpointError(f"model '{name}' cannot be loaded: {reason} ({flag})")


def model_identity(name: str, flag: str) -> str:
    """What tells a model from every other: a hash over its files, or the commit of the hub.

    Raises:
        CheckpointError: nothing usable under that name.
    """
    path = Path(name)
    if path.is_file():
        return f"sha256:{file_digest(path)[0]}"
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in OF_A_MODEL and p.is_file())
        digest = hashlib.sha256()
        for each in files:
            digest.update(f"{each.relative_to(path).as_posix()} {file_digest(each)[0]}\n".encode())
        return f"sha256:{digest.hexdigest()}"
    commit = getattr(config_of(name, flag), "_commit_hash", None)
    return f"hub:{commit}" if commit else f"name:{name}"
