"""Debian in the imitation of upstream: the base image that a registry has, and the packages at deb.debian.org.

The base is made of the host's own packages and served as an image. The packages are the host's, too: a server in its
network answers for deb.debian.org at the imitation's address, so signatures and versions are Debian's own.
"""

import gzip
import hashlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from labs.upstream.imitation import ADDRESS, INDEX, MANIFEST, Content
from toolchain import paths
from toolchain.from_source import debian
from toolchain.versions import architecture

NAME = "deb.debian.org"
_BASE = "docker.io/library/debian:bookworm-slim"
_SOURCES = [
    f"deb http://{NAME}/debian {debian.SUITE} main",
    f"deb http://{NAME}/debian {debian.SUITE}-updates main",
    f"deb http://{NAME}/debian-security {debian.SUITE}-security main",
]
_LISTEN = """
import socket, sys
server = socket.create_server(("{address}", 80))
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"here"], [server.fileno()])
"""


def add_base_image(content: Content, directory: Path) -> str:
    """Have the node image's base among what the registry serves.

    Args:
        content: what is served.
        directory: where to write blobs.

    Returns:
        The digest of its index, by which it is pulled.
    """
    layer = base_layer()
    packed, unpacked = _sums(layer)
    config = {
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{unpacked}"]},
        "history": [{"created_by": "the packages of minbase"}],
    }

    def served(document: object) -> tuple[str, int]:
        text = json.dumps(document).encode()
        sha256 = hashlib.sha256(text).hexdigest()
        (directory / sha256).write_bytes(text)
        content.blobs[sha256] = str(directory / sha256)
        return sha256, len(text)

    def described(type_: str, sha256: str, size: int) -> dict[str, object]:
        return {"mediaType": type_, "digest": f"sha256:{sha256}", "size": size}

    content.blobs[packed] = str(layer)
    manifest, size = served(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described("application/vnd.oci.image.config.v1+json", *served(config)),
            "layers": [described("application/vnd.oci.image.layer.v1.tar+gzip", packed, layer.stat().st_size)],
        }
    )
    platform = {"architecture": architecture(), "os": "linux"}
    index, _ = served(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [described(MANIFEST, manifest, size) | {"platform": platform}],
        }
    )
    content.types |= {manifest: MANIFEST, index: INDEX}
    content.tags[_BASE] = index
    return f"sha256:{index}"


def base_layer() -> Path:
    """The base's files as a layer, made once for all runs."""
    options = [
        "--variant=minbase",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")),
    ]
    recipe = hashlib.sha256("\n".join([*options, *_SOURCES]).encode()).hexdigest()[:12]
    layer = paths.cache() / "upstream-for-tests" / f"debian-{recipe}.tar.gz"
    if layer.exists():
        return layer
    layer.parent.mkdir(parents=True, exist_ok=True)
    archive, packed = layer.with_suffix(".tar"), layer.with_suffix(".new")
    subprocess.run(["mmdebstrap", "--quiet", *options, debian.SUITE, archive, *_SOURCES], check=True)
    with archive.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target)
    archive.unlink()
    return packed.rename(layer)


def _sums(layer: Path) -> tuple[str, str]:
    with layer.open("rb") as packed:
        of_packed = hashlib.file_digest(packed, "sha256").hexdigest()
    unpacked = hashlib.sha256()
    with gzip.open(layer) as content:
        while piece := content.read(1 << 20):
            unpacked.update(piece)
    return of_packed, unpacked.hexdigest()


class Packages:
    """The server of packages; `requests` are the paths that it was asked for.

    Args:
        enter: the words before a command that runs it in the network of the host that is to reach the server.
    """

    def __init__(self, enter: Sequence[str]) -> None:
        self.requests: list[str] = []
        here, there = socket.socketpair()
        with here, there:
            program = [sys.executable, "-c", _LISTEN.format(address=ADDRESS), str(there.fileno())]
            subprocess.run([*enter, *program], pass_fds=[there.fileno()], check=True, timeout=30)
            _, (descriptor,), _, _ = socket.recv_fds(here, 16, 1)
        self._server = ThreadingHTTPServer((ADDRESS, 80), self._handler(), bind_and_activate=False)
        self._server.socket.close()
        # A socket stays in the network where it was made.
        self._server.socket = socket.socket(fileno=descriptor)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                requests.append(self.path)
                assert self.headers["Host"] == NAME
                try:
                    answer = urllib.request.urlopen(f"http://{NAME}{self.path}", timeout=60)
                except urllib.error.HTTPError as error:
                    answer = error
                with answer:
                    body = answer.read()
                    self.send_response(answer.status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        return Handler
