"""What is measured at each number of Nodes: requests, memory, and commands of this project."""

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from config.machines import Role
from live.cluster import Cluster
from live.https_api import Api, ask
from live.scale.simulation import NAMESPACE
from toolchain import paths
from toolchain.errors import ToolchainError

COMPONENTS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
_REQUESTS: Mapping[str, tuple[str, str]] = {
    "get": ("GET", "/api/v1/namespaces/default"),
    "list 500 pods": ("GET", "/api/v1/pods?limit=500"),
    "list nodes": ("GET", "/api/v1/nodes"),
    "write": ("PUT", f"/api/v1/namespaces/{NAMESPACE}/configmaps/written"),
}
_EVERY = 0.1
_SECONDS_OF_REQUESTS = 30.0


def requests(cluster: Cluster, seconds: float = _SECONDS_OF_REQUESTS) -> dict[str, tuple[float, float]]:
    """How long requests of each kind take: one after the other, one of each kind every 100 ms.

    Args:
        cluster: the lab; has the namespace of the simulated Pods.
        seconds: how long it is measured.

    Returns:
        Kind -> median and 99th percentile, in milliseconds.

    Raises:
        ApiError: one has no good answer within 10 s.
    """
    api = Api(cluster)
    written = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written", "namespace": NAMESPACE}}
    api.send("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", written)
    taken: dict[str, list[float]] = {kind: [] for kind in _REQUESTS}
    end = time.monotonic() + seconds
    with closing(api.connection(seconds=10)) as connection:
        while (began := time.monotonic()) < end:
            for kind, (method, path) in _REQUESTS.items():
                started = time.monotonic()
                body = {**written, "data": {"at": str(started)}} if method == "PUT" else None
                ask(connection, method, path, body)
                taken[kind].append(1000 * (time.monotonic() - started))
            # The pace of the measurement, not an order of events.
            time.sleep(max(0.0, _EVERY - (time.monotonic() - began)))
    api.send("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/written")
    return {kind: (statistics.median(each), percentile(each, 99)) for kind, each in taken.items()}


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def memory(cluster: Cluster) -> dict[str, float]:
    """The resident memory of each component, in MiB: that of the machine where it is largest.

    Raises:
        ToolchainError: a machine does not say.
    """
    machines = cluster.with_role(Role.CONTROLLER)
    with ThreadPoolExecutor(max_workers=len(machines)) as threads:
        said = list(threads.map(lambda machine: cluster.ssh(machine, "ps -e -o comm= -o rss="), machines))
    found = dict.fromkeys(COMPONENTS, 0.0)
    for machine, done in zip(machines, said, strict=True):
        if done.returncode != 0:
            raise ToolchainError(f"{machine.name} does not say what its processes use: {done.stderr.strip()}")
        for line in done.stdout.splitlines():
            comm, _, rss = line.strip().rpartition(" ")
            # The kernel cuts names after 15 characters.
            for component in COMPONENTS:
                if comm.strip() == component[:15]:
                    found[component] = max(found[component], int(rss) / 1024)
    return found


def command(cluster: Cluster, *words: str) -> float:
    """The seconds that a command of this project takes on the lab.

    Raises:
        ToolchainError: it fails.
    """
    line = [sys.executable, "-P", str(paths.checkout() / "cli" / "__main__.py"), "-s", cluster.stack.name, *words]
    started = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ToolchainError(f"`hardway {' '.join(words)}` failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return time.monotonic() - started
