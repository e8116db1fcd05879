"""Waits for the lab's Nodes, by what their kubelets report now: the API may still have an old condition."""

import time
from collections.abc import Collection, Mapping
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from typing import Any

from config import health
from config.machines import Role
from live.cluster import Cluster
from live.https_api import Api, ApiError, ask, found
from live.last_lines import Logged, last_lines
from live.waiting import still_missing
from toolchain.errors import ToolchainError

_LOOK_EVERY = 1.0
_ANSWER_SECONDS = 5
_NODES = "/api/v1/nodes"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


def now() -> datetime:
    """The time from which on a node must have been heard."""
    return datetime.now(UTC)


def wait_until_heard(
    cluster: Cluster, names: Collection[str], *, since: datetime, seconds: float, every: float = _LOOK_EVERY
) -> dict[str, str]:
    """Wait until the kubelets of these nodes have renewed their leases, and the nodes are Ready.

    The condition Ready is not enough: it stays for 50 s after its kubelet is gone. The deadline is
    multiplied by the lab's `timeout_factor`.

    Returns:
        Node -> what is missing, of those that did not come in time.
    """
    return still_missing(lambda: _missing(cluster, names, since), cluster.allowed(seconds), every=every)


def report(cluster: Cluster, missing: Mapping[str, str]) -> str:
    """The nodes that did not come, each with what it lacks, and the last lines of their kubelets' logs."""
    lines = "".join(f"\n  - {name}: {what}" for name, what in sorted(missing.items()))
    return lines + last_lines(cluster, [Logged(cluster.machine(name), "kubelet") for name in sorted(missing)])


def names_in_api(cluster: Cluster, *, seconds: float) -> set[str]:
    """The nodes that the API knows, as soon as it answers through the balancer.

    Raises:
        ToolchainError: it does not, within so many seconds times the lab's `timeout_factor`.
    """
    allowed = cluster.allowed(seconds)
    deadline = time.monotonic() + allowed
    while (found := _get(cluster, _NODES)) is None:
        if time.monotonic() >= deadline:
            logged = [Logged(each, "haproxy") for each in cluster.with_role(Role.LOAD_BALANCER)]
            logged += [Logged(each, "kube-apiserver") for each in cluster.with_role(Role.CONTROLLER)]
            logs = last_lines(cluster, logged)
            raise ToolchainError(f"No answer from the API at {cluster.endpoint} within {allowed:.0f} s.{logs}")
        time.sleep(_LOOK_EVERY)
    return set(found)


def _missing(cluster: Cluster, names: Collection[str], since: datetime) -> dict[str, str]:
    nodes, leases = _each(cluster, _NODES, names), _each(cluster, _LEASES, names)
    found = {name: _lacks(nodes.get(name), leases.get(name), since) for name in names}
    return {name: what for name, what in found.items() if what}


def _lacks(node: dict[str, Any] | None, lease: dict[str, Any] | None, since: datetime) -> str:
    if node is None:
        return "it is not in the API"
    if lease is None or datetime.fromisoformat(lease["spec"]["renewTime"]) < since:
        return "its kubelet has not been heard"
    if health.has_condition(node):
        return ""
    return str(health.condition_of(node).get("message", "it has never been ready"))


def _each(cluster: Cluster, path: str, names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Name -> object, of those that the API has said are there. By their names: others may be many."""
    there = {}
    try:
        with closing(Api(cluster).connection(seconds=_ANSWER_SECONDS)) as connection:
            for name in names:
                if item := found(partial(ask, connection, "GET"), f"{path}/{name}"):
                    there[name] = item
    except (ApiError, OSError):
        pass
    return there


def _get(cluster: Cluster, path: str) -> dict[str, dict[str, Any]] | None:
    """Name -> object of a list in the API; None where it did not answer.

    Not by kubectl: that takes a tenth of a second of a processor, which machines that start need themselves.
    """
    try:
        items = Api(cluster).get(path, seconds=_ANSWER_SECONDS)["items"]
    except (ApiError, OSError):
        return None
    return {item["metadata"]["name"]: item for item in items}
