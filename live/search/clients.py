"""The clients of a seeded drill: they create, compare-and-swap, delete and read ConfigMaps, and watch them.

All go through the balancer. What a client does next is chosen by a generator of its own, from the seed.
"""

import json
import random
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote

from live.background import Background
from live.https_api import Api, ApiError
from live.search.history import Action, Event, History, Operation, Outcome

NAMESPACE = "hardway-search"
LABEL = "hardway-search"
_CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
_PAUSE = (0.02, 0.08)
_RETRY = 0.2
_ANSWER_SECONDS = 2.0
_WATCH_SECONDS = 4.0
_NEW_CONNECTION = 0.1
"""How often a client makes a new connection although it has one: the balancer then chooses an API server again."""
# The API server has not begun with what it says no to.
_NOT_BEGUN = (401, 403, 429)
_WEIGHTS = {Action.GET: 30, Action.CREATE: 20, Action.UPDATE: 35, Action.DELETE: 15}


def keys(run: str, count: int) -> list[str]:
    """The names of the objects of a run."""
    return [f"{run}-{number}" for number in range(count)]


class Requests:
    """Requests of one client, each recorded with what its answer means.

    Args:
        api: the lab's.
        history: takes the operations.
        run: stands in the objects' label.
        client: the client's number.
        url: an API server; the balancer if not given.
        proxy_port: of a proxy on the Pulumi host that they go through.
    """

    def __init__(
        self,
        api: Api,
        history: History,
        run: str,
        client: int,
        *,
        url: str | None = None,
        proxy_port: int | None = None,
    ) -> None:
        self._api, self._history, self._run, self._client = api, history, run, client
        self._url, self._proxy_port = url, proxy_port
        self._connection: HTTPConnection | None = None

    def create(self, key: str, value: str) -> Operation:
        """POST."""
        return self._ask(Action.CREATE, key, "POST", _CONFIG_MAPS, self._document(key, value), value=value)

    def update(self, key: str, value: str, *, version: int, expected_value: str) -> Operation:
        """PUT, if the object still has this version."""
        document = self._document(key, value, str(version))
        path = f"{_CONFIG_MAPS}/{key}"
        return self._ask(
            Action.UPDATE, key, "PUT", path, document, value=value, expected=version, expected_value=expected_value
        )

    def delete(self, key: str) -> Operation:
        """DELETE, whatever its version is."""
        return self._ask(Action.DELETE, key, "DELETE", f"{_CONFIG_MAPS}/{key}")

    def get(self, key: str) -> Operation:
        """GET without a resourceVersion: etcd is asked, with a quorum."""
        return self._ask(Action.GET, key, "GET", f"{_CONFIG_MAPS}/{key}")

    def disconnect(self) -> None:
        """The next request makes a new connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _document(self, key: str, value: str, version: str | None = None) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": key, "labels": {LABEL: self._run}}
        if version is not None:
            metadata["resourceVersion"] = version
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"value": value}}

    def _ask(
        self,
        action: Action,
        key: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        value: str = "",
        expected: int = 0,
        expected_value: str = "",
    ) -> Operation:
        call = time.monotonic_ns()
        outcome, answer = self._answer(method, path, body)
        version = 0
        if outcome == Outcome.OK and action != Action.DELETE:
            version = int(answer["metadata"]["resourceVersion"])
            value = answer["data"]["value"]
        done = Operation(
            client=self._client,
            action=action,
            key=key,
            call=call,
            returned=time.monotonic_ns(),
            outcome=outcome,
            value=value,
            version=version,
            expected=expected,
            expected_value=expected_value,
        )
        self._history.add(done)
        return done

    def _answer(self, method: str, path: str, body: Any) -> tuple[Outcome, Any]:
        if self._connection is None:
            connection = self._api.connection(self._url, seconds=_ANSWER_SECONDS, proxy_port=self._proxy_port)
            try:
                connection.connect()
            except OSError:
                connection.close()
                return Outcome.REFUSED, None
            self._connection = connection
        try:
            text = None if body is None else json.dumps(body)
            self._connection.request(method, path, body=text, headers={"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            said = answer.read()
        except (OSError, HTTPException):
            self.disconnect()
            return Outcome.UNKNOWN, None
        if answer.status < 300:
            try:
                return Outcome.OK, json.loads(said)
            except ValueError:
                self.disconnect()
                return Outcome.UNKNOWN, None
        if answer.status == 409:
            return Outcome.CONFLICT, None
        if answer.status == 404:
            return Outcome.MISSING, None
        # An API server that says no to everybody, e.g. while it starts, is left for another.
        self.disconnect()
        return (Outcome.REFUSED if answer.status in _NOT_BEGUN else Outcome.UNKNOWN), None


class Writer(Background):
    """A client at work, in a thread, as long as its `with` block runs.

    Args:
        requests: its requests.
        keys: the objects that it shares with the others.
        client: its number.
        chance: chooses what it does.
    """

    def __init__(self, requests: Requests, keys: list[str], client: int, chance: random.Random) -> None:
        super().__init__(f"client {client}")
        self._requests, self._keys, self._client, self._chance = requests, keys, client, chance
        self._known: dict[str, Operation] = {}
        self._number = 0
        self.last_ok = 0
        """When its last successful request was sent, by the monotonic clock; 0 before the first."""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._requests.disconnect()

    def _work(self) -> None:
        while not self._over.is_set():
            done = self._next()
            if done.outcome == Outcome.OK:
                self.last_ok = done.call
            self._over.wait(
                _RETRY if done.outcome in (Outcome.REFUSED, Outcome.UNKNOWN) else self._chance.uniform(*_PAUSE)
            )

    def _next(self) -> Operation:
        key = self._chance.choice(self._keys)
        action = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if self._chance.random() < _NEW_CONNECTION:
            self._requests.disconnect()
        known = self._known.pop(key, None)
        if action == Action.UPDATE and known is None:
            action = Action.GET
        done = self._do(action, key, known)
        if done.outcome == Outcome.OK and done.version:
            self._known[key] = done
        return done

    def _do(self, action: Action, key: str, known: Operation | None) -> Operation:
        match action:
            case Action.CREATE:
                return self._requests.create(key, self._value())
            case Action.UPDATE:
                assert known is not None
                return self._requests.update(key, self._value(), version=known.version, expected_value=known.value)
            case Action.DELETE:
                return self._requests.delete(key)
            case Action.GET:
                return self._requests.get(key)

    def _value(self) -> str:
        self._number += 1
        return f"{self._client}.{self._number}"


class Watch(Background):
    """Watches the objects of a run, in a thread; goes on where it was when its connection ends.

    Args:
        api: the lab's.
        run: of which the objects are.
        since: the resourceVersion after which it begins.
    """

    def __init__(self, api: Api, run: str, since: int) -> None:
        super().__init__("watch")
        self._api, self._run = api, run
        self.version = since
        """What it has seen: everything up to this version."""
        self.events: list[Event] = []
        self.failure = ""
        """Why it cannot go on."""

    def _work(self) -> None:
        while not self._over.is_set() and not self.failure:
            connection = self._api.connection(seconds=_WATCH_SECONDS)
            try:
                self._follow(connection)
            except (OSError, HTTPException, ValueError):
                # A line may have been cut off with its connection; it comes again.
                self._over.wait(_RETRY)
            finally:
                connection.close()

    def _follow(self, connection: HTTPConnection) -> None:
        selector = quote(f"{LABEL}={self._run}")
        connection.request(
            "GET",
            f"{_CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&labelSelector={selector}"
            f"&resourceVersion={self.version}",
        )
        answer = connection.getresponse()
        if answer.status == 410:
            self.failure = f"the API no longer has the changes after version {self.version}"
            return
        if answer.status != 200:
            answer.read()
            self._over.wait(_RETRY)
            return
        while not self._over.is_set() and (line := answer.readline()):
            if not line.endswith(b"\n"):
                return
            self._take(json.loads(line))
            if self.failure:
                return

    def _take(self, event: Mapping[str, Any]) -> None:
        said = event["object"]
        if event["type"] == "ERROR":
            if said.get("code") == 410:
                self.failure = f"the API no longer has the changes after version {self.version}"
            return
        version = int(said["metadata"]["resourceVersion"])
        if event["type"] != "BOOKMARK":
            self.events.append(
                Event(kind=event["type"], key=said["metadata"]["name"], version=version, value=said["data"]["value"])
            )
            # An event that comes late must not take the watch back: it would then come again, and so show.
        self.version = max(self.version, version)


def newest_version(api: Api) -> int:
    """The version that all that is written from now on is above.

    Raises:
        ApiError: there is no answer.
    """
    return int(api.get(_CONFIG_MAPS + "?limit=1")["metadata"]["resourceVersion"])


def make_namespace(api: Api, *, seconds: float) -> None:
    """Have the namespace of the objects; one that an earlier run has removed may still be going.

    Args:
        api: the lab's.
        seconds: how long that may take.

    Raises:
        ApiError: the API refuses, or the old namespace does not go.
    """
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    deadline = time.monotonic() + seconds
    while True:
        _send(api, "POST", "/api/v1/namespaces", document, accepted=(409,))
        if _is_active(api):
            return
        if time.monotonic() > deadline:
            raise ApiError(f"The namespace {NAMESPACE} of an earlier run does not go within {seconds:.0f} s.")
        time.sleep(_RETRY)


def _is_active(api: Api) -> bool:
    try:
        return "deletionTimestamp" not in api.get(f"/api/v1/namespaces/{NAMESPACE}")["metadata"]
    except ApiError as error:
        if error.status != 404:
            raise
        return False


def remove_objects(api: Api) -> None:
    """Remove the objects of all runs; the namespace stays until `remove_namespace`.

    Raises:
        ApiError: the API refuses.
    """
    _send(api, "DELETE", f"{_CONFIG_MAPS}?labelSelector={LABEL}", None, accepted=(404,))


def remove_namespace(api: Api) -> None:
    """Remove the namespace with all that is in it; returns before it is gone.

    Raises:
        ApiError: the API refuses.
    """
    _send(api, "DELETE", f"/api/v1/namespaces/{NAMESPACE}", None, accepted=(404, 409))


def _send(api: Api, method: str, path: str, body: Any, *, accepted: tuple[int, ...]) -> None:
    try:
        api.send(method, path, body, seconds=20)
    except ApiError as error:
        if error.status not in accepted:
            raise
