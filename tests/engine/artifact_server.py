"""An HTTP server with artifacts, which breaks answers off on demand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(kw_only=True)
class Artifacts:
    """What the server has; change it while it runs.

    Attributes:
        url: of the server, without a final slash.
        files: path -> content.
        cuts: path -> how many of its next answers end in the middle.
        asked: the path of every request.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving(address: str) -> Iterator[Artifacts]:
    """Serve on a free port of one of the host's addresses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            artifacts.asked.append(self.path)
            content = artifacts.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            cut = artifacts.cuts.get(self.path, 0)
            artifacts.cuts[self.path] = max(cut - 1, 0)
            self.wfile.write((content or b"")[: len(content or b"") // 2 if cut else None])

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer((address, 0), Handler)
    artifacts = Artifacts(url=f"http://{address}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield artifacts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
