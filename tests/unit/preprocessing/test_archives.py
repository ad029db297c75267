"""Archives that are what they should be, and those that are not."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from archives import Limits, members

from gazetteer.errors import DataError

FILES = {"data/a.csv": b"one,two\n" * 100, "data/b.csv": b"", "./c.txt": "é".encode()}


def make_tar(path: Path, files: dict[str, bytes] = FILES, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def make_zip(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def read(path: Path, **limits: int) -> dict[str, bytes]:
    return {member.name: member.read() for member in members(path, Limits(**limits))}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.zip"])
def test_files_are_read_in_order(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "x.zip":
        make_zip(path)
    else:
        make_tar(path, mode="w" if name == "x.tar" else "w:gz")
    assert list(read(path).items()) == list(FILES.items())


def test_a_packed_file_is_one_member(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b"hello"))
    assert read(path) == {"x.jsonl": b"hello"}


def test_folders_are_passed_over_and_members_may_be_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        folder = tarfile.TarInfo("data")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in ("data/a", "data/b"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(name[-1].encode() * 3))
    assert [m.read() for m in members(path) if m.name == "data/b"] == [b"bbb"]


EVIL = ["/etc/passwd", "../up", "a/../../up", "..", "C:\\x", "a\\..\\b", "c:/x"]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", ["x.tar", "x.tar.gz", "x.zip"])
def test_evil_names_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / kind
    files = {"good": b"1", name: b"2"}
    if kind == "x.zip":
        make_zip(path, files)
    else:
        make_tar(path, files, "w:gz" if kind.endswith("gz") else "w")
    with pytest.raises(DataError, match="is no plain relative name"):
        read(path)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a device or the like"),
        (tarfile.CONTTYPE, "a device or the like"),
    ],
)
def test_only_plain_files_are_read_from_tar(tmp_path: Path, kind: bytes, shown: str) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("innocent")
        entry.type = kind
        entry.linkname = "/etc/passwd"
        archive.addfile(entry)
    with pytest.raises(DataError, match=f"'innocent' is {shown}"):
        read(path)


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("hole")
        entry.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.size": str(1 << 40),
            "GNU.sparse.map": "0,1",
        }
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(DataError, match="'hole' is a sparse file"):
        read(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_only_plain_files_are_read_from_zip(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("innocent")
        entry.external_attr = (kind | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(DataError, match="'innocent' is a link, a device"):
        read(path)


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x.gz"])
def test_bombs_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    zeros = bytes(20 << 20)
    if name == "x.zip":
        make_zip(path, {"zeros": zeros})
    elif name == "x.gz":
        path.write_bytes(gzip.compress(zeros))
    else:
        make_tar(path, {"zeros": zeros}, "w:gz")
    with pytest.raises(DataError, match="holds more than"):
        read(path)


def test_a_bomb_behind_members_nobody_reads(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar.gz", {"zeros": bytes(20 << 20), "x": b"1"}, "w:gz")
    with pytest.raises(DataError, match="holds more than"):
        list(members(path))


def test_members_are_counted(tmp_path: Path) -> None:
    for path in (make_tar(tmp_path / "x.tar"), make_zip(tmp_path / "x.zip")):
        with pytest.raises(DataError, match="more than 2 members"):
            read(path, members=2)


def test_a_name_comes_once(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for content in (b"1", b"2"):
            entry = tarfile.TarInfo("same")
            entry.size = 1
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(DataError, match="'same' is there twice"):
        read(path)


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip", "x.gz"])
def test_every_cut_is_noticed(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    if name == "x.zip":
        make_zip(whole)
    elif name == "x.gz":
        whole.write_bytes(gzip.compress(bytes(range(256))))
    else:
        make_tar(whole, {"a": b"x" * 700, "b": b"y" * 700}, "w" if name == "x.tar" else "w:gz")
    content, good = whole.read_bytes(), read(whole)
    # What follows the last member of a tar is padding.
    end = 2048 + 1024 if name == "x.tar" else len(content)
    for cut in range(0, end, max(end // 60, 1)):
        whole.write_bytes(content[:cut])
        try:
            found = read(whole)
        except DataError as error:
            assert "\n" not in str(error)
            assert str(whole) in str(error)
        else:
            # A tar cut between two members is a tar: callers ask for the members they need.
            assert name == "x.tar"
            assert found.items() < good.items()


def test_a_flipped_bit_of_packed_text_is_noticed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar.gz", mode="w:gz")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the checksum, which only the end of the stream compares
    path.write_bytes(content)
    with pytest.raises(DataError, match="broken archive"):
        read(path)


def test_other_files_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "x.rar"
    path.write_bytes(b"Rar!")
    with pytest.raises(DataError, match="no known kind of archive"):
        read(path)
    for name in ("x.tar", "x.zip", "x.tar.gz"):
        path = tmp_path / name
        path.write_bytes(b"<html>not found</html>" * 50)
        with pytest.raises(DataError, match="broken archive"):
            read(path)
