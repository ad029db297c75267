"""The edition of 2015 is read out of an archive or a folder: made-up ones, good and bad."""

import gzip
import io
import json
import tarfile

import factbook_2015
import pytest
from factbook_2015 import SourceError, trees_of

TREE = {"Government": {"Government type": {"text": "kingdom"}}}


def member(name, content=b"", **changes):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def as_json(tree):
    return json.dumps(tree).encode()


def make_archive(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, content)
    return path


def test_countries_are_read_by_code_and_other_members_passed_over(tmp_path):
    archive = make_archive(
        tmp_path / "a.tgz",
        member("package/package.json", b"{}"),
        member("package/meta/categories.json", b"not json"),
        member("package/europe/rr.json", as_json(TREE)),
        member("package/africa/bo.json", as_json({"Geography": {}})),
        member("../europe/zz.json", b"not json"),
        member("package/../up/yy.json", b"not json"),
    )

    assert trees_of(archive) == [("bo", {"Geography": {}}), ("rr", TREE)]
    assert list(tmp_path.iterdir()) == [archive]


def test_a_folder_gives_what_the_archive_gives(tmp_path):
    (tmp_path / "europe").mkdir()
    (tmp_path / "europe" / "rr.json").write_bytes(as_json(TREE))
    (tmp_path / "europe" / "notes.json").write_bytes(b"not json")
    archive = make_archive(tmp_path / "a.tgz", member("package/europe/rr.json", as_json(TREE)))

    assert trees_of(tmp_path) == trees_of(archive) == [("rr", TREE)]


def test_marks_between_lines_become_semicolons(tmp_path):
    text = {"Economy": {"Exchange rates": {"text": "crowns (RUC) per US dollar - ++ 2 (2014)"}}}
    archive = make_archive(tmp_path / "a.tgz", member("package/europe/rr.json", as_json(text)))

    value = trees_of(archive)[0][1]["Economy"]["Exchange rates"]["text"]

    assert value == "crowns (RUC) per US dollar -; 2 (2014)"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_never_followed(tmp_path, kind):
    (tmp_path / "secret.json").write_bytes(as_json(TREE))
    target = str(tmp_path / "secret.json")
    archive = make_archive(
        tmp_path / "a.tgz",
        member("package/europe/ev.json", type=kind, linkname=target),
        member("package/europe/rr.json", as_json(TREE)),
    )

    assert [code for code, _ in trees_of(archive)] == ["rr"]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(factbook_2015, "MAX_BYTES", 1 << 20)
    zeros = member("package/europe/zz.txt", bytes(2 << 20))
    archive = make_archive(tmp_path / "a.tgz", zeros)
    assert archive.stat().st_size < 10_000

    with pytest.raises(SourceError, match=r"a\.tgz: unpacks to more than 1 MiB"):
        trees_of(archive)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON in UTF-8"),
        (b'{"a": "\xff"}', "not JSON in UTF-8"),
        (b"[" * 200_000, "not JSON in UTF-8"),
        (b"[1]", "a list where an object of sections belongs"),
    ],
)
def test_a_bad_file_is_named_with_its_archive(tmp_path, content, message):
    archive = make_archive(tmp_path / "a.tgz", member("package/europe/rr.json", content))

    with pytest.raises(SourceError, match=rf"a\.tgz: package/europe/rr\.json: {message}"):
        trees_of(archive)


def test_two_files_for_one_country_are_an_error(tmp_path):
    archive = make_archive(
        tmp_path / "a.tgz",
        member("package/europe/rr.json", as_json(TREE)),
        member("package/africa/rr.json", as_json(TREE)),
    )

    with pytest.raises(SourceError, match="a second file for country 'rr'"):
        trees_of(archive)


def test_a_source_without_countries_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"holds no REGION/CC\.json"):
        trees_of(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "text", "cut", "no tar"])
def test_what_is_no_archive_is_one_line(tmp_path, damage):
    archive = make_archive(tmp_path / "a.tgz", member("package/europe/rr.json", as_json(TREE)))
    whole = archive.read_bytes()
    match damage:
        case "missing":
            archive.unlink()
        case "text":
            archive.write_text("hello")
        case "cut":
            archive.write_bytes(whole[: len(whole) // 2])
        case _:
            archive.write_bytes(gzip.compress(b"hello" * 500))

    with pytest.raises(SourceError, match=r"not a readable \.tgz archive") as caught:
        trees_of(archive)
    assert "\n" not in str(caught.value)
