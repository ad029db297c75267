"""A server on 127.0.0.1 that serves bytes, and misbehaves as it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, and what was asked for.

    Attributes:
        files: content by path.
        faults: by path, one after another for each request: called instead of serving the file.
            What remains when they are used up is served as it should be.
        requests: path and headers, in order.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Callable[[Handler, bytes], None]]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return self.address + path

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FileServer
    timeout = 20

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        self.state.requests.append((self.path, dict(self.headers)))
        content = self.state.files.get(self.path)
        waiting = self.state.faults.get(self.path)
        if waiting:
            waiting.pop(0)(self, content or b"")
        elif content is None:
            self.send_error(404)
        else:
            self.serve(content)

    def serve(self, content: bytes) -> None:
        """As a good server would: ranges, a validator, the length."""
        asked = self.headers.get("Range")
        tag = f'"{hash(content)}"'
        if asked is not None and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            body = content[start:]
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.answer(206, body, {"Content-Range": span, "ETag": tag})
        else:
            self.answer(200, content, {"ETag": tag})

    def answer(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        """Send a status, headers (Content-Length unless given) and a body."""
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()

    def hang_up(self) -> None:
        """End the connection for good, whatever was announced."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running() -> Iterator[FileServer]:
    """A server of its own, ended with the block."""
    state = FileServer()
    handler = type("Bound", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
