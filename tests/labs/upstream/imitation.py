"""Upstream on one machine: release hosts, their storage hosts, an API, two container registries and a name server.

A program of its own, since it runs in a network of its own: `imitation.py DIRECTORY`. The directory has `content.json`
(`Content`), the certificate, and gets `requests` and `names`: each request and each question that came, one a line.
"""

import json
import socket
import ssl
import sys
import threading
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

STORAGE = {
    "dl.k8s.io": "cdn.dl.k8s.io",
    "github.com": "release-assets.githubusercontent.com",
    "registry.k8s.io": "us-west1-docker.pkg.dev",
    "registry-1.docker.io": "production.cloudflare.docker.com",
}
"""Where upstream's hosts send those who ask."""
TOKENS = "auth.docker.io"
API = "api.github.com"
HOSTS = (*STORAGE, *STORAGE.values(), TOKENS, API)
ADDRESS = "10.198.0.1"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

_PIECE = 1 << 18
_SIGNED = "sig=imitation"
_TOKEN = "a-token-of-the-imitation"


@dataclass(kw_only=True)
class Content:
    """What is served.

    Args:
        files: host and path -> the file with the content.
        tags: "registry/repository:tag" -> the sha256 of an index.
        blobs: sha256 -> the file with that content; indexes and manifests, too.
        types: sha256 -> the media type of an index or manifest.
        limited: host and path of files whose first request is answered by 429.
        cut: host and path of files whose first transfer breaks off in the middle.
    """

    files: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    blobs: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    limited: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Put it where the server looks for it."""
        (directory / "content.json").write_text(json.dumps(asdict(self)))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    content: Content
    log: Path
    lock = threading.Lock()

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.host = (self.headers.get("Host") or "").partition(":")[0]
        self.where = urlsplit(self.path)
        if self.host == API:
            self._reply(403, b'{"message": "API rate limit exceeded"}', {"X-RateLimit-Remaining": "0"})
        elif self.host == TOKENS:
            asked = parse_qs(self.where.query)
            known = asked.get("service") == ["registry.docker.io"] and "scope" in asked
            self._reply(200 if known else 400, json.dumps({"token": _TOKEN, "expires_in": 300}).encode())
        elif self.host in ("registry.k8s.io", "registry-1.docker.io", *list(STORAGE.values())[2:]):
            self._registry()
        elif self.host in STORAGE.values():
            self._storage()
        else:
            self._release()

    def _release(self) -> None:
        """dl.k8s.io and github.com send to storage."""
        name = f"{self.host}{self.where.path}"
        if name not in self.content.files:
            self._reply(404)
        elif self.command == "GET" and self._once(self.content.limited, name):
            self._reply(429, headers={"Retry-After": "1"})
        else:
            # A signature is only of use where it is asked for.
            query = f"?{_SIGNED}" if self.host == "github.com" else ""
            self._reply(302, headers={"Location": f"https://{STORAGE[self.host]}{self.where.path}{query}"})

    def _storage(self) -> None:
        origin = next(host for host, storage in STORAGE.items() if storage == self.host)
        name = f"{origin}{self.where.path}"
        if name not in self.content.files:
            self._reply(404)
        elif origin == "github.com" and (self.command == "HEAD" or _SIGNED not in self.where.query):
            # A URL that is signed for GET is good for nothing else.
            self._reply(403)
        else:
            self._file(Path(self.content.files[name]), cut=self._once(self.content.cut, name))

    def _registry(self) -> None:
        parts = self.where.path.split("/")
        if self.host == "registry-1.docker.io" and self.headers.get("Authorization") != f"Bearer {_TOKEN}":
            scope = f',scope="repository:{"/".join(parts[2:-2])}:pull"' if len(parts) > 4 else ""
            realm = f'Bearer realm="https://{TOKENS}/token",service="registry.docker.io"{scope}'
            self._reply(401, b'{"errors": [{"code": "UNAUTHORIZED"}]}', {"WWW-Authenticate": realm})
        elif self.where.path == "/v2/":
            self._reply(200, b"{}")
        elif len(parts) > 4 and parts[1] == "v2" and parts[-2] in ("manifests", "blobs"):
            self._part_of_image("/".join(parts[2:-2]), parts[-2], parts[-1])
        else:
            self._reply(404, b"{}")

    def _part_of_image(self, repository: str, kind: str, reference: str) -> None:
        registry = next((host for host, storage in STORAGE.items() if storage == self.host), self.host)
        name = {"registry-1.docker.io": "docker.io"}.get(registry, registry)
        sha256 = self.content.tags.get(f"{name}/{repository}:{reference}") or reference.removeprefix("sha256:")
        if sha256 not in self.content.blobs:
            self._reply(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}')
        elif self.host == registry and (registry == "registry.k8s.io" or kind == "blobs"):
            self._reply(307, headers={"Location": f"https://{STORAGE[registry]}{self.where.path}?{_SIGNED}"})
        else:
            self._file(
                Path(self.content.blobs[sha256]),
                headers={
                    "Content-Type": self.content.types.get(sha256, "application/octet-stream"),
                    "Docker-Content-Digest": f"sha256:{sha256}",
                },
            )

    def _once(self, names: list[str], name: str) -> bool:
        with self.lock:
            if name not in names:
                return False
            names.remove(name)
            return True

    def _file(self, file: Path, *, cut: bool = False, headers: dict[str, str] | None = None) -> None:
        size = file.stat().st_size
        tag = f'"{size:x}-{int(file.stat().st_mtime):x}"'
        asked, start = self.headers.get("Range"), 0
        if asked and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
        self._head(
            206 if asked and start else 200,
            {"Content-Length": str(size - start), "ETag": tag, **(headers or {})}
            | ({"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {}),
        )
        if self.command == "HEAD":
            return
        with file.open("rb") as content:
            content.seek(start)
            left = (size - start) // 2 if cut else size - start
            while left and (piece := content.read(min(_PIECE, left))):
                self.wfile.write(piece)
                left -= len(piece)
        self.close_connection = self.close_connection or cut

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self._head(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        with self.lock, self.log.open("a") as log:
            entry = {"method": self.command, "host": self.host, "path": self.where.path, "status": status}
            log.write(json.dumps(entry | {"range": self.headers.get("Range")}) + "\n")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: `_head` logs."""


class _Server(ThreadingHTTPServer):
    # The handshake is each connection's thread's: one that stalls must not stop the others.
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.context.wrap_socket(request, server_side=True) as encrypted:
                super().finish_request(encrypted, client_address)
        except OSError:
            # Whoever asked has gone.
            return


def _answer_names(log: Path) -> None:
    """A name server that knows no name: those of the imitation are in the hosts file."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((ADDRESS, 53))
    while True:
        query, asker = server.recvfrom(4096)
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode(errors="replace"))
            at += 1 + length
        with log.open("a") as file:
            file.write(".".join(labels) + "\n")
        server.sendto(query[:2] + b"\x81\x83" + b"\0\1" + bytes(6) + query[12 : at + 5], asker)


def main() -> None:
    """Serve for ever."""
    directory = Path(sys.argv[1])
    _Handler.content = Content(**json.loads((directory / "content.json").read_text()))
    _Handler.log = directory / "requests"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    server = _Server((ADDRESS, 443), _Handler)
    server.context = context
    threading.Thread(target=_answer_names, args=(directory / "names",), daemon=True).start()
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
