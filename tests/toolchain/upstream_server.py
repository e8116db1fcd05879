"""A release server on this machine, with upstream's layout and with faults on demand."""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PIECE = 1 << 14


@dataclass(kw_only=True)
class Upstream:
    """What the server has and does; change it while it runs."""

    base_url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """path -> for each of the next answers, after how many bytes of body it breaks off."""
    failures: dict[str, list[int]] = field(default_factory=dict)
    """path -> statuses of the next answers."""
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    """(method, path) -> the status of all its answers."""
    failure_headers: dict[str, str] = field(default_factory=dict)
    """What those answers have beside the status, e.g. Retry-After."""
    slow: dict[tuple[str, str], float] = field(default_factory=dict)
    """(method, path) -> the seconds before an answer."""
    stalls: dict[str, list[int]] = field(default_factory=dict)
    """path -> for each of the next answers, after how many bytes of body nothing more comes, on an open connection."""
    redirects: dict[str, str] = field(default_factory=dict)
    """path -> where it is."""
    seconds_per_piece: float = 0.0
    validators: bool = True
    """Whether answers have an ETag."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and Range of every request."""

    def publish(self, path: str, content: bytes) -> str:
        """Have a file, and its `.sha256` as Kubernetes publishes it; give its sum."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.files[path] = content
        self.files[f"{path}.sha256"] = sha256.encode()
        return sha256

    def ranges(self, path: str) -> list[str | None]:
        """The Range of every GET of a path."""
        return [asked for method, of, asked in self.asked if (method, of) == ("GET", path)]


@contextmanager
def serving() -> Iterator[Upstream]:
    """Serve on a free port of the loopback interface."""
    upstream, stopped = Upstream(), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(upstream, stopped))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    upstream.base_url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield upstream
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(upstream: Upstream, stopped: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = self.path.lstrip("/")
            upstream.asked.append((self.command, path, self.headers.get("Range")))
            stopped.wait(upstream.slow.get((self.command, path), 0))
            if failures := upstream.failures.get(path):
                return self._empty(failures.pop(0), upstream.failure_headers)
            if status := upstream.refused.get((self.command, path)):
                return self._empty(status, upstream.failure_headers)
            if path in upstream.redirects:
                return self._empty(302, {"Location": upstream.redirects[path]})
            if path not in upstream.files:
                return self._empty(404)
            content = upstream.files[path]
            tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            start = self._start(tag)
            if start and start >= len(content):
                return self._empty(416, {"Content-Range": f"bytes */{len(content)}"})
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if upstream.validators:
                self.send_header("ETag", tag)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if body:
                self._send(path, content[start:])
            return None

        def _start(self, tag: str) -> int:
            asked = self.headers.get("Range")
            if not asked or self.headers.get("If-Range", tag) != tag:
                return 0
            return int(asked.removeprefix("bytes=").rstrip("-"))

        def _send(self, path: str, content: bytes) -> None:
            cuts, stalls = upstream.cuts.get(path), upstream.stalls.get(path)
            is_stall = bool(stalls)
            end = stalls.pop(0) if stalls else cuts.pop(0) if cuts else len(content)
            for at in range(0, end, _PIECE):
                self.wfile.write(content[at : min(at + _PIECE, end)])
                if upstream.seconds_per_piece:
                    time.sleep(upstream.seconds_per_piece)
            if end < len(content):
                self.wfile.flush()
                if is_stall:
                    stopped.wait()
                self.close_connection = True

        def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
