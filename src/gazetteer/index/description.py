"""What a saved index says of itself, for a person or for a program."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gazetteer.data.passages import PASSAGES_FOLDER
from gazetteer.index.atlas_files import atlas_vectors, open_atlas_folder
from gazetteer.index.manifest import read_manifest
from gazetteer.index.vector_sources import saved_vectors


def describe_saved(folder: Path) -> dict[str, Any]:
    """Facts of an index of ours, from its manifest and the heads of its files; nothing is hashed.

    Raises:
        IndexFileError: there is none, or a file is not what the manifest says.
    """
    manifest = read_manifest(folder)
    return {
        "folder": str(folder),
        "format": "gazetteer",
        "rows": manifest.count,
        "dim": manifest.embedding_dim,
        "dtype": _name(saved_vectors(folder, manifest).dtype),
        "step": manifest.step,
        "codes": None if manifest.codec is None else str(manifest.codec.codec),
        "files": len(manifest.all_files),
        "bytes": sum(file.bytes for file in manifest.all_files),
        "has_passages": (folder / PASSAGES_FOLDER).is_dir(),
        "corpus": manifest.identity.corpus,
        "encoder": asdict(manifest.identity.encoder),
    }


def describe_atlas(folder: Path) -> dict[str, Any]:
    """Facts of an index of Atlas, from the heads of its files.

    Raises:
        IndexFileError: a file is missing or not what it should be.
    """
    shards = open_atlas_folder(folder)
    vectors = atlas_vectors(shards)
    return {
        "folder": str(folder),
        "format": "atlas",
        "rows": vectors.count,
        "dim": vectors.embedding_dim,
        "dtype": _name(vectors.dtype),
        "files": len(shards),
        "bytes": sum(shard.embeddings.bytes for shard in shards),
        "bytes_on_disk": sum(shard.embeddings.path.stat().st_size for shard in shards),
        "has_passages": True,
    }


def shown_json(description: dict[str, Any]) -> str:
    """One line."""
    return json.dumps(description) + "\n"


def shown_text(description: dict[str, Any]) -> str:
    """One line for each fact, after the folder's name."""
    facts = {name: value for name, value in description.items() if name != "folder"}
    facts |= {f"encoder {name}": value for name, value in facts.pop("encoder", {}).items()}
    width = max(map(len, facts))
    lines = [f"  {name:<{width}}  {value}\n" for name, value in facts.items()]
    return "".join([f"{description['folder']}\n", *lines])


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
