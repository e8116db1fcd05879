"""Nodes without machines: KWOK says to the API what the kubelet of each would say, and runs on the Pulumi host.

https://kwok.sigs.k8s.io. It is built from its Go module (toolchain/from_source/modules/kwok).
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from config import health
from config.versions import pins
from live.cluster import Cluster
from live.https_api import Api, ApiError, ask, found
from live.waiting import still_missing
from toolchain import access, paths
from toolchain.errors import ToolchainError
from toolchain.from_source import gomodule
from toolchain.from_source.gomodule import Programs
from toolchain.progress import Report
from toolchain.versions import architecture

NAMESPACE = "hardway-scale"
LABEL = "hardway.scale/simulated"
_PROGRAMS = Programs(module="kwok", packages={"kwok": "sigs.k8s.io/kwok/cmd/kwok"})
_TAINT = {"key": LABEL, "value": "true", "effect": "NoSchedule"}
LOG = "kwok.log"
"""The file in the lab's directory that takes what KWOK says."""
_NAME = "simulated"
_NODES = f"/api/v1/nodes?labelSelector={LABEL}=true"
_NAMESPACE = f"/api/v1/namespaces/{NAMESPACE}"
_DELETED_AT_ONCE = 200
_ANSWER_SECONDS = 30
# A list of 1,000 Nodes takes a tenth of a second of a processor.
_LOOK_EVERY = 1.0
# KWOK ends when the standard input does, which is at the latest the end of the process that holds it; and this shell
# when KWOK has ended.
_WITH_ITS_PARENT = """\
exec 3<&0
"$@" </dev/null 3<&- &
kwok=$!
{ read -r _ || true; kill "$kwok"; } <&3 2>/dev/null &
wait "$kwok"
kill "$!" 2>/dev/null"""
# Per Node, and at least a minute: what the API takes to create and to list them on two cores.
_SECONDS_PER_NODE = 0.6


def program(report: Report) -> Path:
    """Have KWOK in the cache.

    Raises:
        ToolchainError: there is no Go, or the module cannot be had.
    """
    home = paths.cache() / "kwok" / _PROGRAMS.recipe()
    return gomodule.have(report, _PROGRAMS, home, title="KWOK", arch=architecture())


@contextmanager
def simulating(cluster: Cluster, kwok: Path, log: Path) -> Iterator[None]:
    """Have KWOK run for the simulated Nodes as long as the `with` block runs; afterwards they and their Pods go.

    KWOK ends with this process, however that ends; what a killed run leaves in the API, the next one removes first.

    Args:
        cluster: the lab.
        kwok: the program.
        log: takes what it says.

    Raises:
        ToolchainError: what is left of an earlier run cannot be removed.
        ApiError: likewise.
    """
    remove(cluster)
    command = [
        str(kwok),
        f"--kubeconfig={cluster.stack.directory / 'kubeconfig'}",
        f"--manage-nodes-with-label-selector={LABEL}=true",
        # As kubelets do: a Lease each, renewed every 10 s.
        "--node-lease-duration-seconds=40",
        # Not a line for each object that it changes.
        "--v=ERROR",
    ]
    with (
        log.open("wb") as said,
        subprocess.Popen(
            ["/bin/sh", "-c", _WITH_ITS_PARENT, "sh", *command],
            env=access.kubectl_environment(cluster.stack),
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            # A terminal's Ctrl-C is not for it: it confirms that Pods have ended while they are removed.
            start_new_session=True,
        ) as guard,
    ):
        try:
            yield
        finally:
            try:
                remove(cluster)
            finally:
                guard.communicate()


def remove(cluster: Cluster) -> None:
    """Remove the simulated Nodes and their Pods; nothing happens where there are none.

    Raises:
        ToolchainError: they are not gone in time.
        ApiError: the API refuses.
    """
    api = Api(cluster)

    def left() -> list[str]:
        try:
            _delete(api, _NAMESPACE)
            # KWOK may not run any more, which would confirm that a Pod has ended.
            _delete_all(api, f"{_NAMESPACE}/pods?")
            _delete_all(api, f"{_NODES}&")
            return [*(f"node {name}" for name in _nodes(api)), *([f"namespace {NAMESPACE}"] if _is_there(api) else [])]
        except ApiError as error:
            # Without an answer it is asked again: a drill may have been interrupted, or the API is busy.
            if error.status is not None and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise
            return [f"what the API did not answer ({error})"]

    if missing := still_missing(left, cluster.allowed(600), every=_LOOK_EVERY):
        raise ToolchainError(
            f"Not all simulated objects are removed: {missing[0]}, and {len(missing) - 1} more. The next run does it."
        )


def create_nodes(cluster: Cluster, count: int) -> None:
    """Create simulated Nodes until there are so many, and wait until each is Ready.

    Raises:
        ToolchainError: not all are Ready in time.
        ApiError: the API refuses one.
    """
    api = Api(cluster)
    have = len(_nodes(api))
    with closing(api.connection(seconds=_ANSWER_SECONDS)) as connection:
        for number in range(have, count):
            ask(connection, "POST", "/api/v1/nodes", _node(number))

    def not_ready() -> str:
        ready = sum(map(health.has_condition, _nodes(api).values()))
        return "" if ready == count else f"{count - ready} of {count} simulated Nodes are not Ready"

    _wait(cluster, not_ready, count)


def create_pods(cluster: Cluster, count: int) -> None:
    """Have so many Pods on the simulated Nodes, and wait until each runs.

    They need not be Ready: the controller manager takes that from the Pods of a Node whose Lease was renewed too late,
    and KWOK, unlike a kubelet, does not give it back.

    Raises:
        ToolchainError: not all run in time.
        ApiError: the API refuses.
    """
    api = Api(cluster)
    deployments = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
    if not _is_there(api):
        api.send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        api.send("POST", deployments, _deployment(count))
    else:
        scale = {"metadata": {"name": _NAME, "namespace": NAMESPACE}, "spec": {"replicas": count}}
        api.send("PUT", f"{deployments}/{_NAME}/scale", {"apiVersion": "autoscaling/v1", "kind": "Scale", **scale})

    def not_running() -> str:
        created = api.get(f"{deployments}/{_NAME}")["status"].get("replicas", 0)
        if created != count:
            return f"{created} of {count} Pods for simulated Nodes are there"
        left = api.get(f"{_NAMESPACE}/pods?fieldSelector=status.phase%21%3DRunning&limit=500")["items"]
        return f"{len(left)} Pods or more of {count} on simulated Nodes do not run" if left else ""

    _wait(cluster, not_running, count // 5)


def not_ready(cluster: Cluster) -> int:
    """How many Pods are not Ready any more: their Nodes' Leases were renewed too late at some time.

    Raises:
        ApiError: the API does not answer.
    """
    status = Api(cluster).get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{_NAME}")["status"]
    return int(status.get("replicas", 0) - status.get("readyReplicas", 0))


def _wait(cluster: Cluster, missing: Callable[[], str], nodes: int) -> None:
    if left := still_missing(missing, cluster.allowed(60 + _SECONDS_PER_NODE * nodes), every=_LOOK_EVERY):
        raise ToolchainError(f"{left}: see {cluster.stack.directory / LOG}.")


def _nodes(api: Api) -> dict[str, Any]:
    """Name -> object of the simulated Nodes that are there."""
    return {item["metadata"]["name"]: item for item in api.get(_NODES, seconds=_ANSWER_SECONDS)["items"]}


def _is_there(api: Api) -> bool:
    """Whether the namespace is there."""
    return found(api.get, _NAMESPACE) is not None


def _delete(api: Api, path: str) -> None:
    try:
        api.send("DELETE", path)
    except ApiError as error:
        # 409: it is being deleted.
        if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise


def _delete_all(api: Api, of: str) -> None:
    # The API server deletes one after the other: there may be more than it deletes within one request's time.
    path, now = f"{of}limit={_DELETED_AT_ONCE}", {"gracePeriodSeconds": 0}
    while api.send("DELETE", path, now, seconds=_ANSWER_SECONDS)["metadata"].get("continue"):
        pass


def _node(number: int) -> dict[str, Any]:
    name = f"simulated-{number:04d}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"},
        },
        "spec": {"taints": [_TAINT]},
        "status": {
            "allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"},
            "capacity": {"cpu": "32", "memory": "256Gi", "pods": "110"},
        },
    }


def _deployment(replicas: int) -> dict[str, Any]:
    labels = {"app": _NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": _NAME, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {LABEL: "true"},
                    "tolerations": [_TAINT],
                    "automountServiceAccountToken": False,
                    "containers": [{"name": "pause", "image": pins().images["pause"].reference}],
                },
            },
        },
    }
