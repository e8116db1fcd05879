"""The API as `hardway trace pod` uses it: single requests with the headers of their answers, and watches."""

import contextlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlencode

from live.background import Background
from live.https_api import Api, ApiError


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A request and its answer.

    Args:
        sent, answered: when, by the clock of the Pulumi host.
        request: method and path.
        code: HTTP's.
        audit_id: the header by which the API server names its audit entry.
        warnings: its headers Warning.
        body: the object.
    """

    sent: float
    answered: float
    request: str
    code: int
    audit_id: str
    warnings: list[str]
    body: Any


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One event of a watch.

    Args:
        at: when it came, by the clock of the Pulumi host.
        kind: ADDED, MODIFIED or DELETED.
        object: the object then.
    """

    at: float
    kind: str
    object: dict[str, Any]


def send(api: Api, method: str, path: str, body: Any = None, *, seconds: float = 20) -> Answer:
    """One request.

    Raises:
        ApiError: there is no good answer in time.
    """
    with closing(api.connection(seconds=seconds)) as connection:
        try:
            connection.connect()
            sent = time.time()
            text = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json", "User-Agent": "hardway-trace"}
            connection.request(method, path, body=text, headers=headers)
            response = connection.getresponse()
            said = response.read().decode(errors="replace")
            answered = time.time()
        except (OSError, HTTPException) as error:
            raise ApiError(f"{type(error).__name__}: {error}") from error
    found = json.loads(said) if response.headers.get_content_type() == "application/json" else {"message": said}
    if response.status >= 400:
        raise ApiError(f"HTTP {response.status}: {found.get('message', '')}", response.status)
    return Answer(
        sent=sent,
        answered=answered,
        request=f"{method} {path}",
        code=response.status,
        audit_id=response.headers.get("Audit-Id", ""),
        warnings=response.headers.get_all("Warning") or [],
        body=_short(found),
    )


@dataclass(kw_only=True)
class Changes:
    """What watches have seen; a caller that waits for something is told of each event."""

    told: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition holds, and return whether it does."""
        with self.told:
            return self.told.wait_for(condition, seconds)


class Watch(Background):
    """A watch of objects; as a context, it is established when the block begins.

    Attributes:
        events: what it has seen.
    """

    _END_SECONDS = 5

    def __init__(self, api: Api, changes: Changes, path: str, *, seconds: float, **selectors: str) -> None:
        super().__init__(f"watch of {path}")
        self.events: list[Seen] = []
        self._changes = changes
        self._connection: HTTPSConnection = api.connection(seconds=seconds)
        query = urlencode({"watch": "1", "timeoutSeconds": str(int(seconds)), **selectors})
        try:
            self._connection.request("GET", f"{path}?{query}")
            self._response: HTTPResponse = self._connection.getresponse()
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise ApiError(f"{type(error).__name__}: {error}") from error
        if self._response.status != 200:
            self._connection.close()
            raise ApiError(f"HTTP {self._response.status} for a watch of {path}", self._response.status)

    def _work(self) -> None:
        # The end of the block closes the connection, in the middle of a read.
        with contextlib.suppress(OSError, HTTPException, ValueError, AttributeError):
            while line := self._response.readline():
                event = json.loads(line)
                _short(event["object"])
                with self._changes.told:
                    self.events.append(Seen(at=time.time(), kind=event["type"], object=event["object"]))
                    self._changes.told.notify_all()

    def _end(self) -> None:
        # `close` alone waits for a read that goes on.
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(2)


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """An object without what nobody here reads: which client has set which of its fields."""
    found.get("metadata", {}).pop("managedFields", None)
    return found
