"""`./hardway trace pod`: one timeline of a Pod, from its submission to its removal, told by the components.

It runs a Pod of its own behind a Service, waits until the Service answers, deletes the Pod and waits until nothing is
left of it; or it reads what there is of a Pod that exists. Everything is collected while it happens (pod_machines.py,
pod_api.py) and read afterwards (pod_stages.py).
"""

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from config import health
from live.cluster import Cluster
from live.drills.run import undisturbed
from live.https_api import Api, ApiError
from live.trace import pod_objects
from live.trace.pod_api import Changes, Seen, Watch, send
from live.trace.pod_machines import Login, Logins
from live.trace.pod_objects import NAMESPACE
from live.trace.pod_record import MachineRecord, Record
from toolchain import operations
from toolchain.errors import ToolchainError

_COMMAND = "./hardway trace pod"
_READY_SECONDS, _ANSWER_SECONDS, _GONE_SECONDS, _RULE_SECONDS = 60, 15, 45, 15
# Longer than all of that: the connection of a watch is open meanwhile.
_WATCH_SECONDS = 300
_NOT_FOUND = 404


def run(cluster: Cluster) -> Record:
    """Run a Pod, delete it, and return what was collected. Nothing of it is left, also if this is interrupted.

    Args:
        cluster: the lab.

    Raises:
        ToolchainError: another run is at work on the lab, or the API refuses the Pod or does not answer.
    """
    # A signal ends this only after everything is removed, as Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    with operations.alone(cluster.stack, _COMMAND):
        api = Api(cluster)
        name = f"trace-{secrets.token_hex(3)}"
        with _reported("The Pod cannot be traced"), _removed(api):
            return _Run(cluster, api, name).run()


def follow(cluster: Cluster, namespace: str, name: str) -> Record:
    """What there is of a Pod that exists. It is not changed, and no request is sent to it.

    Args:
        cluster: the lab.
        namespace, name: the Pod's.

    Raises:
        ToolchainError: there is no such Pod, or the API does not answer.
    """
    api = Api(cluster)
    at = f"/api/v1/namespaces/{namespace}"
    with _reported(f"The Pod {namespace}/{name} cannot be traced"):
        found = api.get(f"{at}/pods/{name}")
        now = time.time()
        record = _new(cluster, namespace, name, followed=True)
        record.pod = found
        record.pods = [Seen(at=now, kind="ADDED", object=found)]
        events = api.get(f"{at}/events?fieldSelector=involvedObject.uid={record.uid}")["items"]
        record.events = [Seen(at=now, kind="ADDED", object=each) for each in events]
        slices = api.get(f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices")["items"]
        record.slices = [Seen(at=now, kind="ADDED", object=each) for each in slices if _endpoint(each, record.uid)]
        services = [each.object["metadata"]["labels"].get("kubernetes.io/service-name") for each in record.slices]
        if services:
            record.service = api.get(f"{at}/services/{services[0]}")
    since = datetime.fromisoformat(found["metadata"]["creationTimestamp"]).timestamp()
    with Logins(cluster, namespace, name, node=record.node, since=since) as logins:
        _look(record, logins)
        record.asker = record.node
        _show_rules(record, logins.on(record.node))
        logins.each(lambda login: login.do("finish"))
        _keep(record, logins)
    return record


class _Run:
    """One run of a Pod of our own."""

    def __init__(self, cluster: Cluster, api: Api, name: str) -> None:
        self._cluster = cluster
        self._api = api
        self._name = name
        self._record = _new(cluster, NAMESPACE, name, followed=False)
        self._changes = Changes()

    def run(self) -> Record:
        record, name = self._record, self._name
        at = f"/api/v1/namespaces/{NAMESPACE}"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
        record.service = send(self._api, "POST", f"{at}/services", pod_objects.service(name)).body
        with ExitStack() as stack:
            logins = stack.enter_context(Logins(self._cluster, NAMESPACE, name))
            watched = [
                stack.enter_context(Watch(self._api, self._changes, path, seconds=_WATCH_SECONDS, **selector))
                for path, selector in (
                    (f"{at}/pods", {"fieldSelector": f"metadata.name={name}"}),
                    (slices, {"labelSelector": f"kubernetes.io/service-name={name}"}),
                    (f"{at}/events", {"fieldSelector": f"involvedObject.name={name}"}),
                )
            ]
            record.pods, record.slices, record.events = (watch.events for watch in watched)
            record.sent = pod_objects.pod(name)
            record.created = send(self._api, "POST", f"{at}/pods", record.sent)
            record.pod = record.created.body
            self._wait("the Pod is not ready", self._is_ready, _READY_SECONDS)
            record.pod = record.pods[-1].object if record.pods else record.pod
            _look(record, logins)
            if record.address:
                self._ask(logins)
            record.deleted = send(self._api, "DELETE", f"{at}/pods/{name}")
            self._wait("the Pod is not removed from the API", self._is_removed, _GONE_SECONDS)
            self._see_end(logins)
            logins.each(lambda login: login.do("finish"))
            _keep(record, logins)
        return record

    def _ask(self, logins: Logins) -> None:
        """Send a request to the Service from a worker: another one than the Pod's, where there is one."""
        record = self._record
        others = [login for login in logins.workers() if login.machine.name != record.node]
        asker = next(iter(others), logins.on(record.node))
        if asker is None:
            record.problems.append("no worker can be asked")
            return
        record.asker = asker.machine.name
        words = (record.cluster_address, str(pod_objects.PORT), pod_objects.PATH, self._whole(_ANSWER_SECONDS))
        asker.do("ask", *words, seconds=2 * _ANSWER_SECONDS)
        _show_rules(record, asker)

    def _see_end(self, logins: Logins) -> None:
        record = self._record
        if node := logins.on(record.node):
            node.do("gone", self._whole(_GONE_SECONDS), seconds=2 * _GONE_SECONDS)
        if record.address and (asker := logins.on(record.asker)):
            asker.do("no_rule", record.address, self._whole(_RULE_SECONDS), seconds=2 * _RULE_SECONDS)

    def _is_ready(self) -> bool:
        pods, slices = self._record.pods, self._record.slices
        return (
            bool(pods)
            and health.has_condition(pods[-1].object)
            and any(_is_ready(_endpoint(each.object, self._record.uid)) for each in slices)
        )

    def _is_removed(self) -> bool:
        pods, slices = self._record.pods, self._record.slices
        gone = not slices or slices[-1].kind == "DELETED" or not _endpoint(slices[-1].object, self._record.uid)
        return bool(pods) and pods[-1].kind == "DELETED" and gone

    def _wait(self, otherwise: str, condition: Callable[[], bool], seconds: float) -> None:
        allowed = self._cluster.allowed(seconds)
        if not self._changes.wait(condition, allowed):
            self._record.problems.append(f"{otherwise} within {allowed:.0f} s")

    def _whole(self, seconds: float) -> str:
        return f"{self._cluster.allowed(seconds):.0f}"


def _new(cluster: Cluster, namespace: str, name: str, *, followed: bool) -> Record:
    network = cluster.stack.network
    return Record(
        stack=cluster.stack.name,
        namespace=namespace,
        name=name,
        followed=followed,
        proxy_mode=network.kube_proxy_mode,
        pod_network=network.pod_network,
    )


def _look(record: Record, logins: Logins) -> None:
    """See what the Pod has on its node."""
    if (login := logins.on(record.node)) is None:
        return
    # A static Pod has another UID for its node than the object in the API.
    uid = record.pod["metadata"].get("annotations", {}).get("kubernetes.io/config.hash", record.uid)
    login.do("look", uid, record.address or "-", record.pod["spec"]["containers"][0]["image"])


def _show_rules(record: Record, login: Login | None) -> None:
    if login is not None and record.address and record.cluster_address not in ("", "None"):
        login.do("rules", record.cluster_address, record.address)


def _keep(record: Record, logins: Logins) -> None:
    record.machines = {
        login.machine.name: MachineRecord(offset=login.offset, problem=login.problem, answers=login.answers)
        for login in logins.all
    }


def _endpoint(endpoint_slice: dict[str, Any], uid: str) -> dict[str, Any]:
    """The endpoint of a Pod in an EndpointSlice; empty where it has none."""
    endpoints = endpoint_slice.get("endpoints") or ()
    return next((each for each in endpoints if each.get("targetRef", {}).get("uid") == uid), {})


def _is_ready(endpoint: dict[str, Any]) -> bool:
    return bool(endpoint) and bool(endpoint["conditions"].get("ready"))


@contextmanager
def _reported(what: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        raise ToolchainError(f"{what}: {error}") from error


@contextmanager
def _removed(api: Api) -> Iterator[None]:
    """Remove what a killed run has left, and at the end what this one has made."""
    _remove(api)
    try:
        yield
    finally:
        with undisturbed():
            _remove(api)


def _remove(api: Api) -> None:
    for kind in ("pods", "services"):
        at = f"/api/v1/namespaces/{NAMESPACE}/{kind}"
        for found in api.get(f"{at}?labelSelector={pod_objects.SELECTOR}")["items"]:
            # The kubelet ends a Pod that is being deleted; it needs no other request.
            if "deletionTimestamp" not in found["metadata"]:
                try:
                    api.send("DELETE", f"{at}/{found['metadata']['name']}")
                except ApiError as error:
                    if error.status != _NOT_FOUND:
                        raise
