"""A container registry on this machine, over TLS with a CA of its own: one image for two platforms."""

import gzip
import hashlib
import io
import json
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(kw_only=True)
class Registry:
    """What the registry has and does; change it while it runs."""

    name: str = ""
    """Host and port."""
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Tag or digest -> media type and content."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    refusal: int | None = None
    """The status of all answers."""
    asked: list[str] = field(default_factory=list)

    def publish(self, tag: str, platforms: tuple[str, ...] = ("amd64", "arm64"), *, text: str = "") -> str:
        """Have an image for some architectures, whose one file is `text`; give the digest of the index."""
        described = []
        for arch in platforms:
            manifest = self._manifest(arch, text)
            described.append(
                {"mediaType": _MANIFEST, "size": len(manifest), "digest": _digest(manifest)}
                | {"platform": {"os": "linux", "architecture": arch}}
            )
            self.manifests[_digest(manifest)] = (_MANIFEST, manifest)
        index = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": described}).encode()
        self.manifests[tag] = self.manifests[_digest(index)] = (_INDEX, index)
        return _digest(index)

    def publish_single(self, tag: str, arch: str) -> str:
        """Have an image without an index; give the digest of its manifest."""
        manifest = self._manifest(arch, "")
        self.manifests[tag] = self.manifests[_digest(manifest)] = (_MANIFEST, manifest)
        return _digest(manifest)

    def _manifest(self, arch: str, text: str) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo("file")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
        layer = gzip.compress(packed.getvalue(), mtime=0)
        config = json.dumps(
            {
                "architecture": arch,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(packed.getvalue())]},
            }
        ).encode()
        self.blobs |= {_digest(layer): layer, _digest(config): config}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(config), "digest": _digest(config)},
            "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)}],
        }
        return json.dumps(manifest).encode()


@contextmanager
def serving(directory: Path) -> Iterator[tuple[Registry, Path]]:
    """Serve on a free port of the loopback interface; give the certificate to trust, too."""
    registry, certificate, key = Registry(), directory / "registry.pem", directory / "registry.key"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    subprocess.run(
        ["openssl", *request.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(registry))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    registry.name = f"127.0.0.1:{server.server_port}"
    try:
        yield registry, certificate
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            registry.asked.append(self.path)
            kind, _, name = self.path.removeprefix("/v2/some/image/").partition("/")
            if registry.refusal:
                return self._send(registry.refusal, "application/json", b'{"errors": [{"code": "DENIED"}]}', body)
            if self.path == "/v2/":
                return self._send(200, "application/json", b"{}", body)
            if kind == "manifests" and name in registry.manifests:
                return self._send(200, *registry.manifests[name], body)
            if kind == "blobs" and name in registry.blobs:
                return self._send(200, "application/octet-stream", registry.blobs[name], body)
            return self._send(404, "application/json", b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}', body)

        def _send(self, status: int, media_type: str, content: bytes, body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
