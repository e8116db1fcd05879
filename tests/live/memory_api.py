"""An API of ConfigMaps in memory, as much of it as the clients of a seeded drill use; it can be told to be wrong."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from live.https_api import Api


class MemoryApi(Api):
    """Stands for the lab's API.

    Attributes:
        objects: name -> ConfigMap.
        events: of the watch, one after the other.
        statuses: what the next requests are answered with, whatever they ask; 0 closes the connection when the request
            has taken effect.
        ignores_versions: updates take effect whatever version the client has read: updates get lost.
        breaks_watch_after: how many events a watch tells before its connection ends within a line.
        forgets: watches of old versions are answered with 410.
        goes_after: the namespace is there and on its way out, until it has been read so often.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.statuses: list[int] = []
        self.ignores_versions = False
        self.breaks_watch_after: int | None = None
        self.forgets = False
        self.goes_after = 0
        self.has_namespace = False
        self.version = 100
        self.lock = threading.Lock()
        self.port = 0

    def connection(  # type: ignore[override]
        self, url: str | None = None, *, seconds: float = 1.0, proxy_port: int | None = None
    ) -> HTTPConnection:
        """Without TLS."""
        connection = HTTPConnection("127.0.0.1", proxy_port or self.port, timeout=seconds)
        if proxy_port:
            connection.set_tunnel("127.0.0.1", self.port)
        return connection

    def answer(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """What the API server says."""
        with self.lock:
            if "configmaps" not in path:
                return self._namespace(method)
            lists = method == "GET" and "configmaps?" in path
            status = self.statuses.pop(0) if self.statuses and not lists else None
            if status:
                return status, {"message": "told to"}
            said = self._do(method, path.rpartition("/")[2], body)
            return (0, {}) if status == 0 else said

    def _namespace(self, method: str) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            status = 409 if self.has_namespace or self.goes_after else 201
            self.has_namespace |= status == 201
            return status, {}
        assert method == "GET"
        if self.goes_after:
            self.goes_after -= 1
            return 200, {"metadata": {"deletionTimestamp": "2026-11-28T10:00:00Z"}}
        return (200, {"metadata": {}}) if self.has_namespace else (404, {"message": "not found"})

    def _do(self, method: str, name: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        if name.startswith("configmaps") and method == "GET":
            return 200, {"metadata": {"resourceVersion": str(self.version)}, "items": []}
        if method == "POST":
            assert body is not None
            name = body["metadata"]["name"]
            return (409, {}) if name in self.objects else (201, self._write("ADDED", name, body))
        if name not in self.objects:
            return 404, {}
        there = self.objects[name]
        if method == "GET":
            return 200, there
        if method == "DELETE":
            self._write("DELETED", name, there)
            del self.objects[name]
            return 200, {"kind": "Status"}
        assert method == "PUT" and body is not None
        same = body["metadata"]["resourceVersion"] == there["metadata"]["resourceVersion"]
        return (200, self._write("MODIFIED", name, body)) if same or self.ignores_versions else (409, {})

    def _write(self, kind: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        written = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        self.objects[name] = written
        self.events.append({"type": kind, "object": written})
        return written


@contextmanager
def serving() -> Iterator[MemoryApi]:
    """The API, as long as the `with` block runs."""
    api = MemoryApi()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if "watch=true" in self.path:
                self._watch()
            else:
                self._answer()

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(length)) if length else None
            status, said = api.answer(self.command, self.path, body)
            if status == 0:
                self.close_connection = True
                return
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _watch(self) -> None:
            since = int(parse_qs(urlsplit(self.path).query)["resourceVersion"][0])
            self.close_connection = True
            self.send_response(410 if api.forgets else 200)
            self.send_header("Connection", "close")
            self.end_headers()
            if api.forgets:
                return
            told = 0
            for each in list(api.events):
                if int(each["object"]["metadata"]["resourceVersion"]) <= since:
                    continue
                line = json.dumps(each).encode() + b"\n"
                if told == api.breaks_watch_after:
                    self.wfile.write(line[:20])
                    return
                self.wfile.write(line)
                told += 1

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
