"""The lab's API as a program asks it: plain HTTPS with the administrator's certificate, so that every second counts.

kubectl would hide what the drills measure: it waits, tries again and takes a third of a second to start.
"""

import base64
import json
import os
import ssl
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from config import yaml_text
from live.cluster import Cluster

SECONDS = 1.0
"""How long a request may take at most, where nothing else is said."""


class ApiError(Exception):
    """A request without a good answer.

    Args:
        why: what was said, or what went wrong.
        status: HTTP's, where there was an answer.
    """

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


class Api:
    """The API of a running lab, through its balancer."""

    def __init__(self, cluster: Cluster) -> None:
        document = yaml_text.load((cluster.stack.directory / "kubeconfig").read_text())
        ca_certificate = document["clusters"][0]["cluster"]["certificate-authority-data"]
        user = document["users"][0]["user"]
        self._endpoint = cluster.endpoint
        self._cluster = cluster
        self._tls = ssl.create_default_context(cadata=base64.b64decode(ca_certificate).decode())
        # OpenSSL wants a file: one that is in memory alone.
        keys = os.memfd_create("keys")
        try:
            for part in ("client-certificate-data", "client-key-data"):
                os.write(keys, base64.b64decode(user[part]) + b"\n")
            self._tls.load_cert_chain(f"/proc/self/fd/{keys}")
        finally:
            os.close(keys)

    def connection(
        self, url: str | None = None, *, seconds: float = SECONDS, proxy_port: int | None = None
    ) -> HTTPSConnection:
        """A connection that is made with its first request.

        Args:
            url: https://address:port of one API server; the balancer's if not given.
            seconds: how long connecting, and each answer, may take, before the lab's `timeout_factor`.
            proxy_port: of a proxy on the Pulumi host that it goes through.
        """
        place = urlsplit(url or self._endpoint)
        assert place.hostname is not None
        allowed = self._cluster.allowed(seconds)
        if proxy_port is None:
            return HTTPSConnection(place.hostname, place.port, timeout=allowed, context=self._tls)
        connection = HTTPSConnection("127.0.0.1", proxy_port, timeout=allowed, context=self._tls)
        connection.set_tunnel(place.hostname, place.port)
        return connection

    def get(self, path: str, *, seconds: float = 10) -> Any:
        """Objects: `send` of GET."""
        return self.send("GET", path, seconds=seconds)

    def send(self, method: str, path: str, body: Any = None, *, url: str | None = None, seconds: float = 10) -> Any:
        """One request, by a connection of its own; `url` and `seconds` as for `connection`.

        Raises:
            ApiError: there is no good answer within so many seconds times the lab's `timeout_factor`.
        """
        with closing(self.connection(url, seconds=seconds)) as connection:
            return ask(connection, method, path, body)


def found(get: Callable[[str], Any], path: str) -> Any:
    """An object, or None where the API says that there is none.

    Args:
        get: path -> object; raises ApiError.
        path: of the object.

    Raises:
        ApiError: there is no other answer.
    """
    try:
        return get(path)
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return None


def ask(
    connection: HTTPSConnection, method: str, path: str, body: Any = None, *, accept: str = "application/json"
) -> Any:
    """One request; the answer as Python data, or as text where it is no JSON.

    Args:
        connection: to the API; it is opened if need be.
        method: of HTTP.
        path: with its query.
        body: an object, sent as JSON.
        accept: the media type of an object that is asked for.

    Raises:
        ApiError: there is no answer in time, or a bad one. The connection is closed then; its next request opens it.
    """
    try:
        connection.request(
            method,
            quote(path, safe="/?&=,%-_."),
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", "Accept": accept},
        )
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        connection.close()
        raise ApiError(f"{type(error).__name__}: {error}") from error
    if answer.status >= 400:
        connection.close()
        raise ApiError(f"HTTP {answer.status}: {_message(text)}", answer.status)
    return json.loads(text) if answer.headers.get_content_type() == "application/json" else text


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200]
