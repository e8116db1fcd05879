"""What is measured at each number of Nodes: requests, memory, and commands of this project."""

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.drills.probes import OWN_MEMBER
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

# Of all requests that API servers answer, by their own histograms: group -> verbs. What lasts by its nature (WATCH,
# CONNECT) belongs to none.
_VERBS: Mapping[str, frozenset[str]] = {
    "all gets": frozenset({"GET"}),
    "all lists": frozenset({"LIST"}),
    "all writes": frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE"}),
}
_BUCKET = re.compile(r'apiserver_request_duration_seconds_bucket\{(.*),le="([^"]+)"\} (\S+)')
_VERB = re.compile(r'(?:^|,)verb="([A-Z]+)"')


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long requests of one kind took.

    Args:
        count: how many there were.
        median, p99: in milliseconds.
    """

    count: int
    median: float
    p99: float


def requests(cluster: Cluster, seconds: float) -> dict[str, Latency]:
    """How long requests of each kind take.

    Those of this program: one after the other, one of each kind every 100 ms, through the load balancer. And all that
    the API servers answer in the same time, whoever asks, by their own histograms.

    Args:
        cluster: the lab; has the namespace of the simulated Pods.
        seconds: how long it is measured.

    Returns:
        Kind -> how long they took; a kind of which there was none is missing.

    Raises:
        ApiError: one has no good answer within 10 s.
    """
    api = Api(cluster)
    controllers = cluster.with_role(Role.CONTROLLER)
    written = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written", "namespace": NAMESPACE}}
    api.send("POST", f"/api/v1/namespaces/{NAMESPACE}/configmaps", written)
    taken: dict[str, list[float]] = {kind: [] for kind in _REQUESTS}
    before = [_served(api, each) for each in controllers]
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
    after = [_served(api, each) for each in controllers]
    api.send("DELETE", f"/api/v1/namespaces/{NAMESPACE}/configmaps/written")
    own = {
        kind: Latency(count=len(each), median=statistics.median(each), p99=percentile(each, 99))
        for kind, each in taken.items()
    }
    return own | from_histograms(before, after)


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _served(api: Api, controller: LiveMachine) -> str:
    return str(api.send("GET", "/metrics", url=f"https://{controller.address}:6443", seconds=30))


def from_histograms(before: Iterable[str], after: Iterable[str]) -> dict[str, Latency]:
    """How long the requests took that API servers have answered between two moments.

    Args:
        before, after: what /metrics of each API server said at these moments.
    """
    start, end = _buckets(before), _buckets(after)
    found = {}
    for group, counted in end.items():
        # Buckets are cumulative, also in the difference.
        between = {limit: number - start[group].get(limit, 0.0) for limit, number in sorted(counted.items())}
        if count := round(max(between.values(), default=0.0)):
            found[group] = Latency(count=count, median=_quantile(between, 0.5), p99=_quantile(between, 0.99))
    return found


def _buckets(said: Iterable[str]) -> dict[str, dict[float, float]]:
    """Group -> upper limit in seconds -> requests within it, of all API servers."""
    summed: dict[str, dict[float, float]] = {group: {} for group in _VERBS}
    for text in said:
        for labels, limit, number in _BUCKET.findall(text):
            verb = _VERB.search(labels)
            for group, verbs in _VERBS.items():
                if verb and verb[1] in verbs:
                    summed[group][float(limit)] = summed[group].get(float(limit), 0.0) + float(number)
    return summed


def _quantile(cumulative: Mapping[float, float], part: float) -> float:
    """Milliseconds, interpolated within the bucket, as Prometheus' histogram_quantile does."""
    rank = part * max(cumulative.values())
    lower, below = 0.0, 0.0
    for limit, number in cumulative.items():
        if number >= rank:
            # The last bucket has no upper limit.
            inside = 0.0 if limit == float("inf") else (limit - lower) * (rank - below) / (number - below)
            return 1000 * (lower + inside)
        lower, below = limit, number
    return 1000 * lower


def memory(cluster: Cluster) -> dict[str, float]:
    """The resident memory of each component, in MiB: that of the machine where it is largest.

    Raises:
        ToolchainError: a machine does not say.
    """
    found = dict.fromkeys(COMPONENTS, 0.0)
    for said in _ask(cluster, cluster.with_role(Role.CONTROLLER), "ps -e -o comm= -o rss="):
        for line in said.splitlines():
            comm, _, rss = line.strip().rpartition(" ")
            # The kernel cuts names after 15 characters.
            for component in COMPONENTS:
                if comm.strip() == component[:15]:
                    found[component] = max(found[component], int(rss) / 1024)
    return found


def database(cluster: Cluster) -> float:
    """The size of etcd's data that is in use, in MiB: that of the member where it is largest.

    Raises:
        ToolchainError: a machine does not say.
    """
    said = _ask(cluster, cluster.etcd_members, f"{OWN_MEMBER}\netcdctl endpoint status -w json")
    return max(int(json.loads(each)[0]["Status"]["dbSizeInUse"]) for each in said) / 2**20


def _ask(cluster: Cluster, machines: Sequence[LiveMachine], script: str) -> list[str]:
    with ThreadPoolExecutor(max_workers=len(machines)) as threads:
        said = list(threads.map(lambda machine: cluster.ssh(machine, script), machines))
    for machine, done in zip(machines, said, strict=True):
        if done.returncode != 0:
            raise ToolchainError(f"{machine.name} does not say what its programs use: {done.stderr.strip()}")
    return [done.stdout for done in said]


def command(cluster: Cluster, *words: str) -> float:
    """The seconds that a command of this project takes on the lab.

    Raises:
        ToolchainError: it fails.
    """
    line = [sys.executable, "-P", str(paths.checkout() / "cli" / "__main__.py"), "-s", cluster.stack.name, *words]
    started = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ToolchainError(f"`hardway {' '.join(words)}` failed: {(done.stdout + done.stderr).strip()[-500:]}")
    return time.monotonic() - started
