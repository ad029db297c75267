"""Fetch one file over https: whole and checked, or not there at all.

Sizes and SHA-256 that are known are in `known_files.json`, by address; the rest is fetched without
that check, and says so. The name of the file is the caller's: nothing the server says decides where
it lies.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from gazetteer.errors import GazetteerError
from gazetteer.files import file_digest, sync
from gazetteer.progress import progress

KNOWN_FILES = Path(__file__).with_name("known_files.json")
BLOCK = 1 << 20
MAX_REDIRECTS = 5
PASSING_ANSWERS = frozenset({408, 416, 425, 429, 500, 502, 503, 504})
"""Answers of a server that may be other ones a moment later. 416: what is left here is no part of
what lies there, so that it is fetched from its start."""


class DownloadError(GazetteerError):
    """A file could not be fetched, or is not the one it should be."""


class _PassingError(Exception):
    """Something that another attempt may not meet."""


@dataclass(frozen=True, slots=True)
class KnownFile:
    """Size and SHA-256 (hexadecimal) of a file somebody has already looked at."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up.

    Attributes:
        silence_s: longest time without a byte, in seconds.
        tries: attempts in a row that bring nothing new.
        first_wait_s: before the second attempt; doubled for each further one, a minute at most.
        max_bytes: largest file taken, where its size is not known beforehand.
    """

    silence_s: float = 60
    tries: int = 6
    first_wait_s: float = 1
    max_bytes: int = 1 << 38


def fetch(url: str, path: Path, patience: Patience = Patience()) -> Path:
    """Make `path` the file at `url`, unless it is there already.

    What arrives is kept in `path`.part and gone on with by the next call; only a whole file, of the
    known size and SHA-256, gets its name.

    Args:
        url: https; http is accepted for 127.0.0.1 alone. The same holds for each redirect.
        path: where to put it; its folder is made.
        patience: when to give up.

    Raises:
        DownloadError: in one line, what was wrong.
    """
    _require_safe(url)
    known = known_files().get(url)
    if path.exists():
        if known is not None and (problem := _mismatch(path, known)):
            raise DownloadError(f"{path}: {problem}; delete it to fetch it again from {url}")
        sys.stdout.write(f"{path} is already there\n")
        return path
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"{partial}: another process is fetching this file"
                raise DownloadError(message) from None
            _complete(url, handle, partial, known, patience)
            digest, size = file_digest(partial)
            partial.replace(path)
            sync(path.parent)
        _state_file(partial).unlink(missing_ok=True)
    except OSError as error:
        raise DownloadError(f"{error.filename or partial}: {error.strerror or error}") from None
    verdict = "as expected" if known else "not checked: no SHA-256 of this file is known"
    sys.stdout.write(f"{path}: {size} bytes, SHA-256 {digest} ({verdict})\n")
    return path


def known_files() -> Mapping[str, KnownFile]:
    """What `known_files.json` holds, by address."""
    entries = json.loads(KNOWN_FILES.read_text(encoding="utf-8"))
    return {url: KnownFile(entry["bytes"], entry["sha256"]) for url, entry in entries.items()}


def _complete(
    url: str, handle: IO[bytes], partial: Path, known: KnownFile | None, patience: Patience
) -> None:
    """Attempt until the file is whole and the one expected."""
    resumed = handle.tell() > 0
    tries = 0
    while True:
        before = handle.tell()
        try:
            _transfer(url, handle, _state_file(partial), known, patience)
            sync(partial)
            problem = None if known is None else _mismatch(partial, known)
            if problem is None:
                return
            _forget(handle, partial)
            if not resumed:
                raise DownloadError(f"{url}: {problem}")
            # What an earlier call left here may have been another file: once more, from the start.
            resumed, reason = False, problem
        except _PassingError as error:
            reason = str(error)
            # An attempt that brought something has earned the next one.
            tries = 0 if handle.tell() > before else tries
        tries += 1
        if tries >= patience.tries:
            raise DownloadError(f"{url}: {reason}, after {tries} attempts") from None
        wait = min(patience.first_wait_s * 2 ** (tries - 1), 60)
        sys.stderr.write(f"{url}: {reason}; trying again in {wait:g} s\n")
        time.sleep(wait)


def _transfer(
    url: str, handle: IO[bytes], state: Path, known: KnownFile | None, patience: Patience
) -> None:
    """One request: append what is missing, or begin again where the server cannot go on."""
    validator = _validator(state, url) if handle.tell() else None
    if handle.tell() and validator is None and known is None:
        _empty(handle)
    headers = {"User-Agent": "gazetteer", "Accept-Encoding": "identity"}
    if handle.tell():
        headers["Range"] = f"bytes={handle.tell()}-"
        if validator is not None:
            headers["If-Range"] = validator
    opener = _opener(url)
    try:
        with opener.open(
            urllib.request.Request(url, headers=headers), timeout=patience.silence_s
        ) as answer:
            total = _announced(url, answer, handle, known, patience)
            document = {"url": url, "validator": _strong_validator(answer)}
            state.write_text(json.dumps(document), encoding="utf-8")
            _append(url, answer, handle, total, patience.max_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _empty(handle)
        if error.code in PASSING_ANSWERS:
            raise _PassingError(f"the server answers {error.code} {error.reason}") from None
        if 300 <= error.code < 400:
            raise DownloadError(f"{url}: redirected in a circle, too often or nowhere") from None
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"{url}: {error.reason.verify_message}") from None
        raise _PassingError(_shown(error.reason)) from None
    except (http.client.HTTPException, OSError) as error:
        raise _PassingError(_shown(error)) from None


def _announced(
    url: str,
    answer: http.client.HTTPResponse,
    handle: IO[bytes],
    known: KnownFile | None,
    patience: Patience,
) -> int | None:
    """Size of the whole file in bytes, None if only its end will tell; `handle` is made to fit."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise DownloadError(f"{url}: the server sends it encoded, though asked not to")
    if answer.status == 206:
        total = _total_of_range(url, answer.headers.get("Content-Range", ""), handle.tell())
    elif answer.status == 200:
        _empty(handle)
        total = answer.length
    else:
        raise DownloadError(f"{url}: the server answers {answer.status} {answer.reason}")
    if known is not None and total is not None and total != known.size:
        raise DownloadError(f"{url}: the server announces {total} bytes, expected {known.size}")
    total = known.size if known is not None else total
    if total is None and not answer.chunked:
        raise DownloadError(f"{url}: the server does not say where the file ends")
    if total is not None and known is None and total > patience.max_bytes:
        raise DownloadError(f"{url}: {total} bytes announced, at most {patience.max_bytes} taken")
    missing = (total or 0) - handle.tell()
    free = shutil.disk_usage(Path(handle.name).parent).free
    if missing > free:
        raise DownloadError(f"{handle.name}: {missing} bytes are to come, {free} are free")
    return total


def _append(
    url: str, answer: http.client.HTTPResponse, handle: IO[bytes], total: int | None, most: int
) -> None:
    """Write the body to the end of `handle`; as many bytes as announced, or a _PassingError."""
    name = Path(urlsplit(url).path).name
    with progress(total, name, "B", enabled=sys.stderr.isatty()) as bar:
        bar.update(handle.tell())
        end = most if total is None else total
        # read1, not read: what has come is kept when the rest does not.
        while handle.tell() < end and (block := answer.read1(min(BLOCK, end - handle.tell()))):
            try:
                handle.write(block)
                handle.flush()
            except OSError as error:
                raise DownloadError(f"{handle.name}: {error.strerror or error}") from None
            bar.update(len(block))
    if total is None and handle.tell() == most:
        raise DownloadError(f"{url}: more than {most} bytes")
    if total is not None and handle.tell() != total:
        raise _PassingError(f"the connection ended after {handle.tell()} of {total} bytes")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Few redirects, none in a circle, none to what may not be asked in the first place."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Check where the server sends us."""
        try:
            _require_safe(newurl)
            if _is_local(newurl) and not _is_local(req.full_url):
                raise DownloadError(f"{newurl}: only https is fetched")
        except DownloadError as error:
            fp.close()
            raise DownloadError(f"{req.full_url}: redirected to {error}") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """An opener that knows https (and http) alone: no files, no ftp, no credentials."""
    opener = urllib.request.OpenerDirector()
    handlers: list[Any] = [
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_certificates()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _SafeRedirects(),
    ]
    if not _is_local(url):
        handlers.append(urllib.request.ProxyHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


@cache
def _certificates() -> ssl.SSLContext:
    """The system's; reading them takes longer than fetching a small file."""
    return ssl.create_default_context()


def _is_local(url: str) -> bool:
    return urlsplit(url).scheme == "http"


def _require_safe(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise DownloadError(f"{url!r}: {error}") from None
    is_allowed = parts.scheme == "https" or (parts.scheme == "http" and host == "127.0.0.1")
    if not is_allowed or not host or parts.username is not None:
        raise DownloadError(f"{url}: only https without a user name is fetched")


def _total_of_range(url: str, header: str, offset: int) -> int:
    """Size of the whole file out of `bytes first-last/total`, if it is what was asked for."""
    kind, _, rest = header.partition(" ")
    span, _, total = rest.partition("/")
    first, _, last = span.partition("-")
    are_numbers = all(n.isascii() and n.isdigit() for n in (first, last, total))
    if kind == "bytes" and are_numbers and offset == int(first) <= int(last) == int(total) - 1:
        return int(total)
    raise DownloadError(f"{url}: asked for bytes {offset} to the end, the server sends {header!r}")


def _state_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _validator(state: Path, url: str) -> str | None:
    """What tells that a file still is the one begun with; None if nothing does."""
    try:
        document = json.loads(state.read_text(encoding="utf-8"))
        validator = document["validator"]
        is_same = document["url"] == url and isinstance(validator, str)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return validator if is_same and validator.isprintable() else None


def _strong_validator(answer: http.client.HTTPResponse) -> str | None:
    etag = answer.headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified")


def _mismatch(path: Path, known: KnownFile) -> str | None:
    """What tells a file from the known one, or None."""
    digest, size = file_digest(path)
    if size != known.size:
        return f"{size} bytes, expected {known.size}"
    return None if digest == known.sha256 else f"SHA-256 is {digest}, expected {known.sha256}"


def _empty(handle: IO[bytes]) -> None:
    handle.truncate(0)
    handle.seek(0)


def _forget(handle: IO[bytes], partial: Path) -> None:
    _empty(handle)
    _state_file(partial).unlink(missing_ok=True)


def _shown(error: object) -> str:
    """An error of the network in a few words."""
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else type(error).__name__
