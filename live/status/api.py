"""The API in a lab's status: its servers, and what one of them tells of leases, Nodes and DNS."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from config import health
from live.cluster import Cluster
from live.probe import Probe

LEASES = ("kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, kw_only=True)
class LeaseStatus:
    """Who leads the controller managers or the schedulers.

    Args:
        name: of the lease in kube-system.
        holder: the machine; null if it never had a holder.
        renewed: when it was last renewed.
        age_seconds: how long ago that was.
        valid: whether that is within the lease's own duration.
    """

    name: str
    holder: str | None = None
    renewed: str | None = None
    age_seconds: float | None = None
    valid: bool = False


@dataclass(frozen=True, kw_only=True)
class ApiServerStatus:
    """One API server, asked on its own machine.

    Args:
        machine: where.
        ready: what /readyz says.
        failing: the names of the checks that fail.
        message: why there is no answer.
    """

    machine: str
    ready: bool
    failing: list[str]
    message: str


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One Node.

    Args:
        name: as in the API.
        ready: its condition Ready.
        since: when that last changed.
        schedulable: whether new pods may come.
        version: of its kubelet.
        message: why it is not ready.
    """

    name: str
    ready: bool
    since: str | None
    schedulable: bool
    version: str | None
    message: str


@dataclass(frozen=True, kw_only=True)
class DnsStatus:
    """The cluster's DNS.

    Args:
        available: how many of its replicas are.
        replicas: how many there are to be; 0 where it is not in the API.
    """

    available: int = 0
    replicas: int = 0


def objects_seen(probes: Sequence[Probe]) -> tuple[str | None, list[dict[str, Any]], datetime | None]:
    """Who told of the objects in the API, the objects, and the time there; the first controller that can."""
    for probe in probes:
        found = probe.json("objects")
        pages = probe.json("nodes")
        if found and pages:
            clock = datetime.fromtimestamp(float(probe.answer("clock").out), UTC)
            return probe.machine.name, [*found["items"], *_nodes(pages)], clock
    return None, [], None


def _nodes(pages: Sequence[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """The Nodes of a page and, after it, of the lab's own where there are more; each once, in the order of names."""
    # Of one Node kubectl prints no list. In the API's own lists an item does not say what it is.
    items = [item for page in pages if page for item in page.get("items", [page])]
    return [each for _, each in sorted({item["metadata"]["name"]: {**item, "kind": "Node"} for item in items}.items())]


def nodes_not_listed(probes: Sequence[Probe], listed: int) -> int:
    """How many Nodes there are besides those that were listed; all of them belong to no machine of the lab."""
    for probe in probes:
        if probe.json("objects") and (pages := probe.json("nodes")):
            page = pages[0]
            return int(len(page["items"]) + page["metadata"].get("remainingItemCount", 0)) - listed
    return 0


def lease_status(name: str, objects: Sequence[dict[str, Any]], clock: datetime) -> LeaseStatus:
    for item in objects:
        if item["kind"] == "Lease" and item["metadata"]["name"] == name and item["spec"].get("renewTime"):
            spec = item["spec"]
            return LeaseStatus(
                name=name,
                # "controller-0_8a4e...": the machine and a number of its own
                holder=(spec.get("holderIdentity") or "").partition("_")[0] or None,
                renewed=spec["renewTime"],
                age_seconds=round(max(health.lease_age(spec, clock.timestamp()), 0.0), 1),
                valid=health.is_held(spec, clock.timestamp()),
            )
    return LeaseStatus(name=name)


def api_server_status(probe: Probe) -> ApiServerStatus:
    answer = probe.answer("readyz")
    body, _, code = answer.out.rpartition("\n")
    checks = [line for line in body.splitlines() if line.startswith("[-]")]
    answered = answer.status == 0
    message = "" if answered else answer.why
    if answered and code != "200" and not checks:
        message = f"/readyz answers {code}"
    return ApiServerStatus(
        machine=probe.machine.name,
        ready=answered and code == "200",
        # "[-]etcd failed: reason withheld"
        failing=[line.removeprefix("[-]").split(" ")[0] for line in checks],
        message=message,
    )


def node_status(item: dict[str, Any]) -> NodeStatus:
    """A Node, by its object in the API."""
    ready = health.condition_of(item)
    return NodeStatus(
        name=item["metadata"]["name"],
        ready=health.has_condition(item),
        since=ready.get("lastTransitionTime"),
        schedulable=not item["spec"].get("unschedulable", False),
        version=item["status"].get("nodeInfo", {}).get("kubeletVersion"),
        message="" if health.has_condition(item) else ready.get("message", "it has never been ready"),
    )


def dns_status(objects: Sequence[dict[str, Any]]) -> DnsStatus:
    for item in objects:
        if item["kind"] == "Deployment" and item["metadata"]["name"] == health.DNS:
            available, wanted = health.replicas(item)
            return DnsStatus(available=available, replicas=wanted)
    return DnsStatus()


def api_problem(server: ApiServerStatus) -> str:
    return f"not ready: {', '.join(server.failing)}" if server.failing else server.message


def object_problems(
    cluster: Cluster, seen_by: str | None, leases: Sequence[LeaseStatus], nodes: Sequence[NodeStatus]
) -> Iterator[str]:
    if seen_by is None:
        yield "no API server lists leases and nodes"
        return
    for lease in leases:
        if lease.renewed is None:
            yield f"the lease {lease.name} never had a holder"
        elif not lease.valid:
            yield f"the lease {lease.name} was last renewed {lease.age_seconds} s ago, by {lease.holder or 'no holder'}"
    yield from node_problems(cluster, nodes)


def node_problems(cluster: Cluster, nodes: Sequence[NodeStatus]) -> Iterator[str]:
    """What is wrong with the Nodes, given all that the API has."""
    for node in nodes:
        if not node.ready:
            yield f"the node {node.name} is not Ready: {node.message}"
    there = {node.name for node in nodes}
    for machine in cluster.nodes if cluster.has("workers") else ():
        if machine.name not in there:
            yield f"{machine.name} has no Node in the API"


def dns_problems(dns: DnsStatus) -> Iterator[str]:
    if not dns.replicas:
        yield f"the Deployment {health.DNS} of the cluster's DNS is not in the API, or has no replicas"
    elif problem := health.too_few_replicas(dns.available, dns.replicas):
        yield problem
