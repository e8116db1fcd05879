"""What the API says while `view` runs: whether it answers, and lists that are kept up to date by watches."""

import json
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any

from config import health
from live.background import Background
from live.https_api import Api, ApiError, ask

_EVERY_SECONDS = 0.4
_ANSWER_SECONDS = 0.6
_WATCH_SECONDS = 30
_AGAIN_SECONDS = 0.5

PATHS: Mapping[str, str] = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    "leases": "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases",
    "slices": "/apis/discovery.k8s.io/v1/endpointslices",
}


class Readiness(Background):
    """Asks the endpoint whether the API is ready, each time by a new connection: the load balancer chooses again."""

    _END_SECONDS = 2

    def __init__(self, api: Api, watches: Sequence["Watch"]) -> None:
        super().__init__("view readiness")
        self._api, self._watches = api, watches
        self.ready: bool | None = None
        self.message = ""

    def _work(self) -> None:
        while not self._over.is_set():
            self._ask()
            self._over.wait(_EVERY_SECONDS)

    def _ask(self) -> None:
        try:
            self._api.get(health.API_READY, seconds=_ANSWER_SECONDS)
        except ApiError as error:
            self.ready, self.message = False, str(error)
            return
        was_away = self.ready is False
        self.ready, self.message = True, ""
        if was_away:
            # A connection through what was lost may not know it.
            for watch in self._watches:
                watch.connect_again()


class Watch(Background):
    """One list of the API.

    Args:
        api: where.
        path: of the list.
    """

    _END_SECONDS = 2

    def __init__(self, api: Api, path: str) -> None:
        super().__init__(f"view {path}")
        self._api, self._path = api, path
        self._connection: HTTPConnection | None = None
        self.items: dict[str, Any] = {}
        """uid -> object; replaced as a whole."""
        self.listed = False
        """Whether the API has listed them yet."""
        self.changed_at: dict[str, float] = {}
        """uid -> when the object was last seen to change, by `time.monotonic`."""

    def connect_again(self) -> None:
        """End the connection; the list is read again at once."""
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                self._follow()
            except (ApiError, OSError, HTTPException, ValueError, KeyError):
                self._over.wait(_AGAIN_SECONDS)

    def _end(self) -> None:
        self.connect_again()

    def _follow(self) -> None:
        # A watch ends by itself after _WATCH_SECONDS; a connection that is silent for longer is lost.
        with closing(self._api.connection(seconds=_WATCH_SECONDS + 5)) as self._connection:
            listed = ask(self._connection, "GET", self._path)
            self._replace({item["metadata"]["uid"]: item for item in listed["items"]})
            version = listed["metadata"]["resourceVersion"]
            self._connection.request(
                "GET", f"{self._path}?watch=1&resourceVersion={version}&timeoutSeconds={_WATCH_SECONDS}"
            )
            answer = self._connection.getresponse()
            if answer.status != 200:
                raise ApiError(f"HTTP {answer.status}", answer.status)
            for line in answer:
                if self._over.is_set():
                    return
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise ApiError(str(event["object"].get("message")))
                self._apply(event["type"], event["object"])

    def _replace(self, items: dict[str, Any]) -> None:
        for uid, item in items.items():
            if _version(self.items.get(uid)) != _version(item):
                self.changed_at[uid] = time.monotonic()
        self.changed_at = {uid: at for uid, at in self.changed_at.items() if uid in items}
        self.items = items
        self.listed = True

    def _apply(self, kind: str, item: Any) -> None:
        # The others are not compared again: of thousands of objects, hundreds may change in a second.
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            self.changed_at.pop(uid, None)
            self.items = {each: known for each, known in self.items.items() if each != uid}
            return
        if _version(self.items.get(uid)) != _version(item):
            self.changed_at[uid] = time.monotonic()
        self.items = {**self.items, uid: item}


def _version(item: Any) -> str | None:
    return None if item is None else str(item["metadata"]["resourceVersion"])
