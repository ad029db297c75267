"""Read archives member by member. Nothing is unpacked: what a member is called names no file here.

An archive with anything but plain files and folders under plain relative names is refused, and so
is one that grows beyond bounds.
"""

from __future__ import annotations

import gzip
import io
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gazetteer.errors import DataError

BLOCK = 1 << 20
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError)
"""What the libraries raise for a broken archive."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold.

    Attributes:
        members: of any kind.
        total_bytes: of all members together, uncompressed.
        ratio: times its own size, uncompressed. Text packs to a tenth, a bomb to a thousandth.
    """

    members: int = 100_000
    total_bytes: int = 1 << 36
    ratio: int = 200

    def bytes_of(self, size: int) -> int:
        """Uncompressed bytes allowed to an archive of `size` bytes."""
        # A tar of a few small files is mostly zeros: a mebibyte is no bomb.
        return min(self.total_bytes, max(self.ratio * size, BLOCK))


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Attributes:
        name: relative, with `/`; for messages and for choosing, never for writing.
        read: its bytes; to be called before the next member is asked for.
    """

    name: str
    read: Callable[[], bytes]


def members(path: Path, limits: Limits = Limits()) -> Iterator[Member]:
    """The files of a .tar, .tar.gz, .tgz, .zip or .gz, in the archive's order.

    Raises:
        DataError: the archive is broken, too large, or holds what it should not; one line.
    """
    readers = {".tar": _tar, ".tar.gz": _tar, ".tgz": _tar, ".zip": _zip, ".gz": _gz}
    reader = next((read for end, read in readers.items() if path.name.endswith(end)), None)
    if reader is None:
        raise DataError(f"{path}: found no known kind of archive, expected {', '.join(readers)}")
    if path.stat().st_size == 0:
        raise _broken(path, EOFError("it is empty"))
    files = reader(path, limits)
    names: set[str] = set()
    while True:
        try:
            member = next(files, None)
        except DAMAGE as error:
            raise _broken(path, error) from None
        if member is None:
            return
        if member.name in names:
            raise DataError(f"{path}: {member.name!r} is there twice")
        names.add(member.name)
        yield Member(member.name, _explained(path, member.read))


class _Capped(io.RawIOBase):
    """A stream that ends with DataError once more than `most` bytes have been read from it."""

    def __init__(self, stream: io.BufferedIOBase, most: int, path: Path) -> None:
        self._stream = stream
        self._most = most
        self._left = most
        self._path = path

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        block = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise _too_large(self._path, self._most)
        return block


def _tar(path: Path, limits: Limits) -> Iterator[Member]:
    most = limits.bytes_of(path.stat().st_size)
    with path.open("rb") as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = _Capped(gzip.GzipFile(fileobj=raw) if is_packed else raw, most, path)
        # A stream ("r|"): headers cannot send the reader back, nor ahead.
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for count, entry in enumerate(archive, 1):
                _require(path, count <= limits.members, f"more than {limits.members} members")
                _check_name(path, entry.name)
                is_file = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse()
                _require(path, is_file or entry.isdir(), f"{entry.name!r} is {_tar_kind(entry)}")
                if is_file:
                    yield Member(entry.name, _tar_reader(archive, entry))
        # To the end of the packed stream, where its checksum is.
        while stream.read(BLOCK):
            pass


def _tar_reader(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        file = archive.extractfile(entry)
        content = b"" if file is None else file.read()
        if len(content) != entry.size:
            raise EOFError("a member ends early")
        return content

    return read


def _tar_kind(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return f"a link (to {entry.linkname!r})"
    if entry.issparse():
        return "a sparse file"
    return "a device or the like"


def _zip(path: Path, limits: Limits) -> Iterator[Member]:
    left = most = limits.bytes_of(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        for count, entry in enumerate(archive.infolist(), 1):
            _require(path, count <= limits.members, f"more than {limits.members} members")
            name = entry.orig_filename
            _check_name(path, name)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            _require(path, is_plain, f"{name!r} is a link, a device or the like")
            _require(path, not entry.flag_bits & 1, f"{name!r} is encrypted")
            left -= entry.file_size
            if left < 0:
                raise _too_large(path, most)
            if not entry.is_dir():
                yield Member(name, _zip_reader(archive, entry))


def _zip_reader(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        with archive.open(entry) as file:
            content = file.read(entry.file_size + 1)
        if len(content) != entry.file_size:
            raise EOFError("a member is not as long as announced")
        return content

    return read


def _gz(path: Path, limits: Limits) -> Iterator[Member]:
    most = limits.bytes_of(path.stat().st_size)
    with path.open("rb") as raw:
        stream = _Capped(gzip.GzipFile(fileobj=raw), most, path)
        yield Member(path.name.removesuffix(".gz"), stream.read)


def _explained(path: Path, read: Callable[[], bytes]) -> Callable[[], bytes]:
    """`read`, its errors in one line."""

    def explained() -> bytes:
        try:
            return read()
        except DAMAGE as error:
            raise _broken(path, error) from None

    return explained


def _check_name(path: Path, name: str) -> None:
    is_relative = bool(name) and not name.startswith("/") and not re.match(r"[A-Za-z]:", name)
    is_plain = "\\" not in name and "\0" not in name and ".." not in PurePosixPath(name).parts
    _require(path, is_relative and is_plain, f"{name!r} is no plain relative name")


def _require(path: Path, holds: bool, problem: str) -> None:
    if not holds:
        raise DataError(f"{path}: refused, as {problem}")


def _too_large(path: Path, most: int) -> DataError:
    return DataError(f"{path}: refused, as it holds more than {most} bytes")


def _broken(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: broken archive: {str(error).partition(chr(10))[0] or 'it ends early'}"
    )
