"""Downloads from a server that misbehaves in every way we know."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gazetteer import downloading
from gazetteer.downloading import DownloadError, KnownFile, Patience, fetch
from tests.support.file_server import FileServer, Handler, running

CONTENT = bytes(range(256)) * 4096
QUICK = Patience(silence_s=5, tries=3, first_wait_s=0.01)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with running() as state:
        state.files["/file.bin"] = CONTENT
        yield state


@pytest.fixture
def url(server: FileServer) -> str:
    return server.url("/file.bin")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "kept.bin"


def know(monkeypatch: pytest.MonkeyPatch, url: str, content: bytes = CONTENT) -> None:
    known = KnownFile(len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(downloading, "known_files", lambda: {url: known})


def short(handler: Handler, content: bytes) -> None:
    """Announces everything, sends half."""
    handler.answer(
        200, content[: len(content) // 2], {"Content-Length": str(len(content)), "ETag": '"x"'}
    )
    handler.hang_up()


def half(handler: Handler, content: bytes) -> None:
    """The first half, under the tag of a good server."""
    tag = f'"{hash(content)}"'
    handler.answer(
        200, content[: len(content) // 2], {"Content-Length": str(len(content)), "ETag": tag}
    )
    handler.hang_up()


def failing(code: int):
    return lambda handler, content: handler.send_error(code)


def redirect(target: str, code: int = 302):
    return lambda handler, content: handler.answer(code, b"", {"Location": target})


def test_a_file_arrives_whole_and_nothing_else_stays(url: str, path: Path, capsys) -> None:
    assert fetch(url, path, QUICK) == path
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["kept.bin"]
    shown = capsys.readouterr().out
    assert hashlib.sha256(CONTENT).hexdigest() in shown
    assert "not checked: no SHA-256" in shown


def test_a_known_file_is_checked_and_said_to_be(url, path, monkeypatch, capsys) -> None:
    know(monkeypatch, url)
    fetch(url, path, QUICK)
    assert "(as expected)" in capsys.readouterr().out


def test_a_file_that_is_there_is_not_asked_for(server, url, path) -> None:
    fetch(url, path, QUICK)
    fetch(url, path, QUICK)
    assert len(server.requests) == 1


def test_a_file_that_is_there_but_another_one_is_an_error(url, path, monkeypatch) -> None:
    know(monkeypatch, url)
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(DownloadError, match=r"kept\.bin: SHA-256 is .*, expected .*; delete it"):
        fetch(url, path, QUICK)


def test_a_short_body_is_completed_by_a_range(server, url, path) -> None:
    server.faults["/file.bin"] = [half]
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, url, path) -> None:
    server.faults["/file.bin"] = [half, failing(503), failing(503), failing(503)]
    with pytest.raises(DownloadError, match="503 Service Unavailable, after 3 attempts"):
        fetch(url, path, QUICK)
    assert not path.exists()
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges()[-1] == f"bytes={len(CONTENT) // 2}-"


def test_bodies_that_stay_short_are_given_up(server, url, path) -> None:
    server.faults["/file.bin"] = [short] * 9
    with pytest.raises(DownloadError, match=rf"ended after {len(CONTENT) // 2} of {len(CONTENT)}"):
        fetch(url, path, QUICK)
    assert not path.exists()
    assert len(server.requests) == 3


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, url, path) -> None:
    server.faults["/file.bin"] = [short]  # under another ETag
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_is_borne(server, url, path) -> None:
    server.faults["/file.bin"] = [
        half,
        lambda handler, content: handler.answer(200, content, {}),
    ]
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "span",
    ["bytes 0-{last}/{size}", "bytes {half}-{last}/*", "bytes {half}-9/{size}", "", "items 1"],
)
def test_another_range_than_asked_for_is_refused(server, url, path, span) -> None:
    size = len(CONTENT)
    header = span.format(half=size // 2, last=size - 1, size=size)
    server.faults["/file.bin"] = [
        half,
        lambda handler, content: handler.answer(
            206, content[size // 2 :], {"Content-Range": header}
        ),
    ]
    with pytest.raises(DownloadError, match="asked for bytes"):
        fetch(url, path, QUICK)
    assert not path.exists()


def test_what_is_left_of_something_longer_is_dropped(server, url, path, monkeypatch) -> None:
    know(monkeypatch, url)
    path.parent.mkdir()
    path.with_name("kept.bin.part").write_bytes(CONTENT + b"more")
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT


def test_a_foreign_beginning_is_noticed_by_the_hash(server, url, path, monkeypatch) -> None:
    know(monkeypatch, url)
    path.parent.mkdir()
    path.with_name("kept.bin.part").write_bytes(b"?" * 1000)
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=1000-", None]


def test_an_unknown_beginning_is_not_trusted(server, url, path) -> None:
    path.parent.mkdir()
    path.with_name("kept.bin.part").write_bytes(b"?" * 1000)
    path.with_name("kept.bin.part.json").write_text("not JSON")
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges() == [None]


def test_another_hash_is_refused_and_nothing_is_kept(server, url, path, monkeypatch) -> None:
    know(monkeypatch, url)
    server.files["/file.bin"] = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match=r"SHA-256 is [0-9a-f]{64}, expected"):
        fetch(url, path, QUICK)
    assert not path.exists()
    assert path.with_name("kept.bin.part").stat().st_size == 0
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [CONTENT + b"!", CONTENT[:-1], b""])
def test_another_length_is_refused_at_once(server, url, path, monkeypatch, content) -> None:
    know(monkeypatch, url)
    server.files["/file.bin"] = content
    with pytest.raises(DownloadError, match=rf"announces {len(content)} bytes, expected"):
        fetch(url, path, QUICK)
    assert not path.exists()


def test_404_is_final(server, path) -> None:
    with pytest.raises(DownloadError, match=r"/no: the server answers 404 Not Found"):
        fetch(server.url("/no"), path, QUICK)
    assert len(server.requests) == 1
    assert not path.exists()


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_passing_failure_passes(server, url, path, code) -> None:
    server.faults["/file.bin"] = [failing(code), failing(code)]
    fetch(url, path, QUICK)
    assert path.read_bytes() == CONTENT


def test_a_circle_of_redirects_ends(server, path) -> None:
    for one, other in (("/a", "/b"), ("/b", "/a")):
        server.faults[one] = [redirect(server.url(other))] * 99
    with pytest.raises(DownloadError, match="redirected in a circle"):
        fetch(server.url("/a"), path, QUICK)
    assert len(server.requests) <= 3


def test_a_long_way_of_redirects_ends(server, path) -> None:
    for step in range(99):
        server.faults[f"/{step}"] = [redirect(f"/{step + 1}", 307)]
    with pytest.raises(DownloadError, match="too often"):
        fetch(server.url("/0"), path, QUICK)
    assert len(server.requests) == downloading.MAX_REDIRECTS + 1


def test_a_redirect_is_followed_with_its_range(server, url, path) -> None:
    server.faults["/old"] = [redirect(url), redirect(url)]
    server.faults["/file.bin"] = [half]
    fetch(server.url("/old"), path, QUICK)
    assert path.read_bytes() == CONTENT
    assert server.ranges()[-1] == f"bytes={len(CONTENT) // 2}-"


@pytest.mark.parametrize(
    "target", ["http://example.org/x", "file:///etc/passwd", "ftp://127.0.0.1/x", "https://u:p@h/x"]
)
def test_redirects_to_anything_else_are_refused(server, path, target) -> None:
    server.faults["/old"] = [redirect(target)]
    with pytest.raises(DownloadError, match="redirected"):
        fetch(server.url("/old"), path, QUICK)
    assert not path.exists()
    assert len(server.requests) == 1


def test_https_is_not_left_for_plain_http() -> None:
    request = downloading.urllib.request.Request("https://example.org/x")
    handler = downloading._SafeRedirects()
    headers = http.client.HTTPMessage()
    with open("/dev/null", "rb") as body, pytest.raises(DownloadError, match="only https"):
        handler.redirect_request(request, body, 302, "", headers, "http://127.0.0.1/x")


@pytest.mark.parametrize(
    "bad",
    ["http://example.org/x", "file:///etc/passwd", "ftp://h/x", "https://", "x", "http://[::1"],
)
def test_only_https_is_asked(path, bad) -> None:
    with pytest.raises(DownloadError):
        fetch(bad, path, QUICK)
    assert not path.parent.exists()


def test_silence_is_given_up(server, url, path) -> None:
    over = threading.Event()

    def silent(handler: Handler, content: bytes) -> None:
        handler.answer(200, content[:1000], {"Content-Length": str(len(content))})
        over.wait(20)

    server.faults["/file.bin"] = [silent] * 9
    try:
        with pytest.raises(DownloadError, match="timed out, after 1 attempts"):
            fetch(url, path, Patience(silence_s=0.2, tries=1, first_wait_s=0.01))
    finally:
        over.set()


def test_a_server_that_is_not_there(path) -> None:
    with pytest.raises(DownloadError, match="refused, after 2 attempts"):
        fetch("http://127.0.0.1:9/x", path, Patience(tries=2, first_wait_s=0.01))


def test_names_from_the_server_count_for_nothing(server, url, path, tmp_path) -> None:
    evil = {"Content-Disposition": 'attachment; filename="../../evil"'}
    server.faults["/file.bin"] = [lambda handler, content: handler.answer(200, content, evil)]
    fetch(url, path, QUICK)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "folder",
        "folder/kept.bin",
    ]


def test_an_encoded_body_is_refused(server, url, path) -> None:
    encoded = {"Content-Encoding": "gzip"}
    server.faults["/file.bin"] = [lambda handler, content: handler.answer(200, content, encoded)]
    with pytest.raises(DownloadError, match="encoded"):
        fetch(url, path, QUICK)


def chunked(*blocks: bytes):
    body = b"".join(f"{len(block):x}\r\n".encode() + block + b"\r\n" for block in blocks)
    headers = {"Transfer-Encoding": "chunked", "Content-Length": ""}
    return lambda handler, content: handler.answer(200, body, headers)


def test_chunks_are_put_together(server, url, path) -> None:
    server.faults["/file.bin"] = [chunked(b"abc", b"defg", b"")]
    fetch(url, path, QUICK)
    assert path.read_bytes() == b"abcdefg"


def test_chunks_without_an_end_are_no_file(server, url, path) -> None:
    server.faults["/file.bin"] = [chunked(b"abc", b"defg")] * 9
    with pytest.raises(DownloadError, match="after 3 attempts"):
        fetch(url, path, QUICK)
    assert not path.exists()


def test_endless_chunks_are_cut_off(server, url, path) -> None:
    server.faults["/file.bin"] = [chunked(b"x" * 2000, b"")]
    with pytest.raises(DownloadError, match="more than 1000 bytes"):
        fetch(url, path, Patience(max_bytes=1000))
    assert not path.exists()


def test_a_body_without_length_may_end_anywhere(server, url, path) -> None:
    bare = {"Content-Length": ""}
    server.faults["/file.bin"] = [lambda handler, content: handler.answer(200, content, bare)]
    with pytest.raises(DownloadError, match="does not say where the file ends"):
        fetch(url, path, QUICK)


def test_too_large_for_the_disk(server, url, path) -> None:
    huge = {"Content-Length": str(1 << 60)}
    server.faults["/file.bin"] = [lambda handler, content: handler.answer(200, content, huge)]
    with pytest.raises(DownloadError, match="are free"):
        fetch(url, path, Patience(max_bytes=1 << 62))


def test_a_full_disk_is_one_line(url, path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading, "sync", full)
    with pytest.raises(DownloadError, match="No space left on device"):
        fetch(url, path, QUICK)
    assert not path.exists()


def test_two_processes_do_not_write_one_file(url, path) -> None:
    path.parent.mkdir()
    with path.with_name("kept.bin.part").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process"):
            fetch(url, path, QUICK)


def test_an_empty_file_is_a_file(server, url, path) -> None:
    server.files["/file.bin"] = b""
    fetch(url, path, QUICK)
    assert path.read_bytes() == b""


def test_the_table_is_in_order() -> None:
    entries = json.loads(downloading.KNOWN_FILES.read_text())
    assert list(entries) == sorted(entries)
    for url, known in downloading.known_files().items():
        assert url.startswith("https://")
        assert known.size > 0
        assert len(bytes.fromhex(known.sha256)) == 32
