"""A local HTTP server that answers with JSON, in the place of an API that tests cannot ask."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the server was asked.

    Args:
        method: of HTTP.
        path: without the query.
        query: its values by name.
        authorization: the header, where there is one.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    authorization: str | None


@contextmanager
def json_server(answer: Callable[[Request], tuple[int, Any]]) -> Iterator[str]:
    """The URL of a server, for as long as the `with` block runs.

    Args:
        answer: gives status and content; a string is sent as it is.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            status, content = answer(
                Request(
                    method=self.command,
                    path=asked.path,
                    query=parse_qs(asked.query),
                    authorization=self.headers.get("Authorization"),
                )
            )
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
