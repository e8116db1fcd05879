"""A proxy that delays what passes through it: this kernel may have no netem, which delays packets.

Clients reach the balancer through it by CONNECT. What a client has sent before it gave up still arrives, later.
"""

import contextlib
import socket
import threading
import time
from typing import Self
from urllib.parse import urlsplit

_CHUNK = 65536
_SECONDS = 10


class DelayingProxy:
    """A proxy on the Pulumi host, as long as its `with` block runs.

    Args:
        url: https://address:port, the only place that it connects to.

    Attributes:
        seconds: how long it keeps what it has received before it sends it on, in both directions.
    """

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        assert place.hostname is not None and place.port is not None
        self._to = (place.hostname, place.port)
        self.seconds = 0.0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        port: int = self._listening.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = 0.0
        for each in (self._listening, *self._open):
            # Waiting threads continue.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(timeout=_SECONDS)
        for each in (self._listening, *self._open):
            each.close()

    def _start(self, do: object, *words: object) -> None:
        thread = threading.Thread(target=do, args=words, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._open.add(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (part := client.recv(_CHUNK)):
                    return
                head += part
            server = socket.create_connection(self._to, timeout=_SECONDS)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        self._open.add(server)
        with contextlib.suppress(OSError):
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self._start(self._pass_on, client, server)
        self._pass_on(server, client)

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := one.recv(_CHUNK):
                time.sleep(self.seconds)
                other.sendall(part)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)
