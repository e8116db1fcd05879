"""The command: serves the page until Ctrl-C."""

import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from live.cluster import Cluster
from live.view.observer import Observer
from live.view.server import ADDRESS, application
from toolchain.errors import ToolchainError

_END_SECONDS = 1


def view(lab: Cluster, scripts: Path, *, port: int | None) -> None:
    """Serve the page of a lab until Ctrl-C.

    Args:
        lab: which one.
        scripts: the directory with htmx.
        port: on 127.0.0.1; a free one if not given.

    Raises:
        ToolchainError: the port cannot be used.
    """
    listener = _listen(port)
    observer = Observer(lab)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # Within the server: it ends by the signal itself, and what follows it would not run.
        with observer:
            print(
                f"The lab {lab.stack.name}: http://{ADDRESS}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True
            )
            yield

    app = application(observer, scripts, is_ending=lambda: server.should_exit, lifespan=lifespan)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_END_SECONDS,
        )
    )
    # The server ends in order by either signal, and then sends it to itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    server.run(sockets=[listener])


def _listen(port: int | None) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port or 0))
    except OSError as error:
        listener.close()
        raise ToolchainError(f"Port {port} of {ADDRESS} cannot be used: {error.strerror}. Choose another.") from error
    return listener
