"""Nodes without machines: KWOK says to the API what the kubelet of each would say, and runs on the Pulumi host.

https://kwok.sigs.k8s.io. It is built from its Go module (toolchain/from_source/modules/kwok).
"""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.versions import pins
from live import workload_tools
from live.cluster import Cluster
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
_AT_ONCE = 250
_LOOK_EVERY = 0.5
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

    Args:
        cluster: the lab.
        kwok: the program.
        log: takes what it says.

    Raises:
        ToolchainError: what is left of an earlier run cannot be removed.
    """
    remove(cluster)
    with log.open("wb") as said:
        process = subprocess.Popen(
            [
                str(kwok),
                f"--kubeconfig={cluster.stack.directory / 'kubeconfig'}",
                f"--manage-nodes-with-label-selector={LABEL}=true",
                # As kubelets do: a Lease each, renewed every 10 s.
                "--node-lease-duration-seconds=40",
            ],
            env=access.kubectl_environment(cluster.stack),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        try:
            remove(cluster)
        finally:
            process.terminate()
            process.wait()


def remove(cluster: Cluster) -> None:
    """Remove the simulated Nodes and their Pods; nothing happens where there are none.

    Raises:
        ToolchainError: the API refuses, or they are not gone in time.
    """
    _kubectl(cluster, "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
    # Their kubelet may not run any more, which would confirm that a Pod has ended.
    _kubectl(
        cluster, "delete", "pods", f"--namespace={NAMESPACE}", "--all", "--grace-period=0", "--force", "--wait=false"
    )
    _kubectl(cluster, "delete", "nodes", f"--selector={LABEL}=true", "--ignore-not-found", "--wait=false")

    def left() -> list[str]:
        nodes = _kubectl(cluster, "get", "nodes", f"--selector={LABEL}=true", "--output=name").split()
        return [
            *nodes,
            *_kubectl(cluster, "get", "namespace", NAMESPACE, "--ignore-not-found", "--output=name").split(),
        ]

    if missing := still_missing(left, cluster.allowed(600), every=_LOOK_EVERY):
        raise ToolchainError(f"{len(missing)} simulated objects are not removed, {missing[0]} among them.")


def create_nodes(cluster: Cluster, count: int) -> None:
    """Create simulated Nodes until there are so many, and wait until each is Ready.

    Raises:
        ToolchainError: the API refuses one, or not all are Ready in time.
    """
    have = len(_kubectl(cluster, "get", "nodes", f"--selector={LABEL}=true", "--output=name").split())
    for start in range(have, count, _AT_ONCE):
        nodes = [_node(number) for number in range(start, min(start + _AT_ONCE, count))]
        _apply(cluster, nodes)

    def not_ready() -> list[str]:
        said = _kubectl(cluster, "get", "nodes", f"--selector={LABEL}=true", "--no-headers")
        ready = sum(line.split()[1] == "Ready" for line in said.splitlines())
        return [] if ready == count else [f"{count - ready} of {count} simulated Nodes are not Ready"]

    _wait(cluster, not_ready, count)


def create_pods(cluster: Cluster, count: int) -> None:
    """Have so many Pods on the simulated Nodes, and wait until each is Ready.

    Raises:
        ToolchainError: the API refuses, or not all are Ready in time.
    """
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    _apply(cluster, [namespace, _deployment(count)])

    def not_ready() -> list[str]:
        where = "--output=jsonpath={.status.readyReplicas}"
        ready = int(_kubectl(cluster, "get", "deployment", "simulated", f"--namespace={NAMESPACE}", where) or 0)
        return [] if ready == count else [f"{count - ready} of {count} Pods on simulated Nodes are not Ready"]

    _wait(cluster, not_ready, count // 5)


def _wait(cluster: Cluster, missing: Any, nodes: int) -> None:
    if left := still_missing(missing, cluster.allowed(60 + _SECONDS_PER_NODE * nodes), every=_LOOK_EVERY):
        raise ToolchainError("; ".join(left))


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
    labels = {"app": "simulated"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "simulated", "namespace": NAMESPACE},
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


def _apply(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> None:
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    _kubectl(cluster, "apply", "--server-side", "--filename=-", stdin=document)


def _kubectl(cluster: Cluster, *arguments: str, stdin: str | None = None) -> str:
    return workload_tools.kubectl(cluster, *arguments, stdin=stdin, seconds=300)
