"""What is wrong with a saved index: every file against its hash, every row in one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gazetteer.data.built_folders import require_built
from gazetteer.data.passages import PASSAGES_FOLDER
from gazetteer.errors import IndexFileError
from gazetteer.index.manifest import Manifest, read_manifest
from gazetteer.index.searcher import open_passages
from gazetteer.index.stored_files import IndexFile, StoredFile
from gazetteer.index.vector_sources import stored_dtype


def content_bytes(folder: Path) -> int:
    """Bytes that `find_problems` will read, to within what is missing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def find_problems(folder: Path, on_bytes: Callable[[int], object]) -> list[str]:
    """Read a whole index once and say what is wrong with it, one line for each problem.

    Passages are optional: an index that was saved without them is sound.

    Args:
        folder: a saved index.
        on_bytes: told how much has been read, for a progress bar.

    Returns:
        Lines that name the file; empty if all is well.
    """
    try:
        manifest = read_manifest(folder)
    except (IndexFileError, OSError) as error:
        return [str(error)]
    problems = []
    for file in manifest.all_files:
        problem = _file_problem(folder, file, manifest)
        problems += [problem] if problem else []
        on_bytes(file.bytes)
    return problems + _passage_problems(folder, manifest, on_bytes)


def require_sound(folder: Path, on_bytes: Callable[[int], object]) -> Manifest:
    """The manifest of an index in which nothing is wrong.

    Raises:
        IndexFileError: with the first of its problems.
    """
    problems = find_problems(folder, on_bytes)
    if problems:
        rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise IndexFileError(problems[0] + rest)
    return read_manifest(folder)


def _file_problem(folder: Path, file: StoredFile, manifest: Manifest) -> str | None:
    try:
        file.verify(folder)
        if isinstance(file, IndexFile) and file in manifest.files:
            stored_dtype(folder / file.name, (file.rows, manifest.embedding_dim))
    except OSError as error:
        return f"{folder / file.name}: {error.strerror}"
    except IndexFileError as error:
        return str(error)
    return None


def _passage_problems(
    folder: Path, manifest: Manifest, on_bytes: Callable[[int], object]
) -> list[str]:
    passages = folder / PASSAGES_FOLDER
    if not passages.exists():
        return []
    try:
        require_built(passages, "passages", is_thorough=True)
        open_passages(folder, manifest)
    except (IndexFileError, OSError) as error:
        return [str(error)]
    finally:
        on_bytes(content_bytes(passages))
    return []
