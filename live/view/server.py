"""The server of the page: GET alone, on 127.0.0.1 alone; no answer may load anything from elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from live.view.page import STATIC

ADDRESS = "127.0.0.1"
# A page of another site whose name leads here (DNS rebinding) sends that name.
_HOSTS = (ADDRESS, "localhost")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_SCRIPTS = {"htmx.js": "htmx-2.min.js", "sse.js": "ext/hx-sse-2.min.js"}
_OWN = ("page.css", "page.js", "icon.svg")
_EVERY_SECONDS = 0.1


class Shown(Protocol):
    """What is served."""

    parts: dict[str, str]

    def page(self) -> str:
        """The whole page."""


def application(
    shown: Shown,
    scripts: Path,
    *,
    is_ending: Callable[[], bool],
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """The application.

    Args:
        shown: the page.
        scripts: the directory with htmx, see toolchain/view_packages.py.
        is_ending: whether the server is about to end: streams end then.
        lifespan: what runs around it.
    """

    async def page(_: Request) -> Response:
        return HTMLResponse(shown.page())

    async def changes(_: Request) -> Response:
        return StreamingResponse(_stream(shown, is_ending), media_type="text/event-stream")

    files = {name: scripts / file for name, file in _SCRIPTS.items()} | {name: STATIC / name for name in _OWN}

    async def static(request: Request) -> Response:
        file = files.get(request.path_params["name"])
        return FileResponse(file) if file else Response(status_code=404)

    return Starlette(
        routes=[
            Route("/", page, methods=["GET"]),
            Route("/changes", changes, methods=["GET"]),
            Route("/static/{name}", static, methods=["GET"]),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(_HOSTS), www_redirect=False),
        ],
        lifespan=lifespan,
    )


class _Headers:
    """Adds the headers to every answer, also to those that refuse."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


async def _stream(shown: Shown, is_ending: Callable[[], bool]) -> AsyncIterator[str]:
    sent: Mapping[str, str] = {}
    while not is_ending():
        parts = shown.parts
        if text := changed(sent, parts):
            yield text
        sent = parts
        await asyncio.sleep(_EVERY_SECONDS)


def changed(sent: Mapping[str, str], parts: Mapping[str, str]) -> str:
    """Server-sent events for the parts that are different; empty if none is."""
    return "".join(_event(name, html) for name, html in parts.items() if sent.get(name) != html)


def _event(name: str, html: str) -> str:
    lines = "".join(f"data: {line}\n" for line in html.splitlines() or [""])
    return f"event: {name}\n{lines}\n"
