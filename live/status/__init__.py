"""How a lab is: gathered from all of its machines at once, judged, and shown as a table or as JSON.

The JSON of `./hardway status --json` is the dataclass `Status`, field by field; sizes are bytes, times RFC 3339 in UTC.
A field without an answer is null (or an empty list), and `problems` says why.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from config.chapters import COMPLETE
from config.machines import Role
from live import etcd_data, firewalls, pod_network
from live.cluster import Cluster
from live.firewalls import FirewallStatus
from live.pod_network import PodNetworkStatus
from live.probe import Probe, ask_more, own_etcdctl, probe_all
from live.status.api import (
    LEASES,
    ApiServerStatus,
    DnsStatus,
    LeaseStatus,
    NodeStatus,
    api_problem,
    api_server_status,
    dns_problems,
    dns_status,
    lease_status,
    node_problems,
    node_status,
    nodes_not_listed,
    object_problems,
    objects_seen,
)
from live.status.certificates import CertificateStatus, certificate_problems, certificate_status, issued
from live.status.endpoint import (
    BackendStatus,
    EndpointStatus,
    ask_endpoint,
    backend_statuses,
    balancer_problems,
    endpoint_status,
)
from live.status.etcd import (
    MemberStatus,
    SnapshotStatus,
    etcd_problems,
    member_data,
    members,
    snapshot_status,
)
from live.status.machines import MachineStatus, machine_problems, machine_status
from live.waiting import still_missing
from toolchain import access
from toolchain.errors import ToolchainError

NOT_BUILT = "not built yet"
"""What is said of the endpoint in a lab that ends with a chapter before the load balancer."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a lab is.

    Args:
        stack: which lab.
        time: when it was asked.
        until: the last chapter that the program has built; null for a whole lab. What later ones create is not judged.
        well: whether there are no problems.
        problems: each in one sentence.
        seen_by: the controller whose API server told of leases and nodes; null where none could.
        nodes: those of the lab's machines, and others, up to 100 in the order of names.
        nodes_not_listed: how many others there are.
        dns: null likewise.
        renewal_days: a `./hardway up` this many days before a certificate's end renews those that the stack made.
    """

    stack: str
    time: str
    until: str | None
    well: bool
    problems: list[str]
    endpoint: EndpointStatus
    machines: list[MachineStatus]
    etcd: list[MemberStatus]
    leases: list[LeaseStatus]
    api_servers: list[ApiServerStatus]
    backends: list[BackendStatus]
    seen_by: str | None
    nodes: list[NodeStatus]
    nodes_not_listed: int
    dns: DnsStatus | None
    renewal_days: float
    certificates: list[CertificateStatus]
    firewalls: list[FirewallStatus]
    pod_network: list[PodNetworkStatus]
    snapshots: list[SnapshotStatus]

    def json(self) -> str:
        """The status for programs."""
        return json.dumps(asdict(self), indent=2)


def gather(cluster: Cluster) -> Status:
    """Ask everything at once; what does not answer within seconds is part of the status."""
    with ThreadPoolExecutor(max_workers=2) as threads:
        asked = threads.submit(ask_endpoint, cluster) if cluster.has("load-balancer") else None
        read = threads.submit(firewalls.of_pulumi_host, cluster)
        probes = _ask_what_depends(cluster, probe_all(cluster))
        said, here = asked.result() if asked else NOT_BUILT, read.result()
    certificates = access.read(cluster.stack).get("certificates", [])
    return judge(
        cluster, probes, endpoint_says=said, certificates=certificates, firewall_here=here, now=datetime.now(UTC)
    )


def check_health(cluster: Cluster, doing: str, *, seconds: float = 0) -> None:
    """See that each machine, member, API server and Node works: what follows restarts them one after the other.

    A certificate that is due for renewal is none of this: the next `up` renews it. Machines are asked once, and what
    `gather` asks besides is not: it is done between any two stages of a change.

    Args:
        cluster: the lab.
        doing: what is done only then: "Keys are rotated".
        seconds: how long is waited for that, before the lab's `timeout_factor`: after a stage that has restarted them.

    Raises:
        ToolchainError: with all that does not work.
    """
    if found := still_missing(lambda: not_working(cluster), cluster.allowed(seconds)):
        so_far = "the next stage was not begun" if seconds else "nothing was changed"
        raise ToolchainError(
            f"{doing} only while the whole lab works; {so_far}.\n"
            + "".join(f"  {each}\n" for each in found)
            + f"Repair that (`./hardway status -s {cluster.stack.name}`), then run this again."
        )


def not_working(cluster: Cluster) -> list[str]:
    """The machines, members, API servers and Nodes that do not work, each in one sentence."""
    return list(_does_not_work(cluster, probe_all(cluster)))


def _does_not_work(cluster: Cluster, probes: Sequence[Probe]) -> Iterator[str]:
    machines = [machine_status(cluster, probe) for probe in probes]
    yield from machine_problems(machines)
    # Of a machine that does not answer that alone is said.
    reached = {machine.name for machine in machines if machine.reached}
    yield from (
        f"the etcd member on {each.machine or each.name} is not healthy"
        for each in members(cluster, probes)
        if not each.healthy and (each.machine is None or each.machine in reached)
    )
    servers = [api_server_status(probe) for probe in probes if Role.CONTROLLER in probe.machine.roles]
    yield from (
        f"the API server on {each.machine} is not ready"
        for each in servers
        if not each.ready and each.machine in reached
    )
    _, objects, _ = objects_seen(probes)
    yield from node_problems(cluster, [node_status(item) for item in objects if item["kind"] == "Node"])


def _ask_what_depends(cluster: Cluster, probes: Sequence[Probe]) -> list[Probe]:
    """Ask what depends on what machines have said: hashes of etcd's data, and packets to pods on other nodes."""
    if not cluster.has("etcd"):
        return list(probes)
    revision = etcd_data.common_revision(member_data(members(cluster, probes)))
    hashed = {} if revision is None else {"hash": f"{own_etcdctl(cluster)} endpoint hashkv --rev={revision}"}
    _, objects, _ = objects_seen(probes)
    asked = {}
    for probe in probes:
        if not probe.reached:
            continue
        asked[probe.machine.name] = dict(hashed) if probe.machine in cluster.etcd_members else {}
        if cluster.has("dns") and (packets := pod_network.packets_question(cluster, probe, objects)):
            asked[probe.machine.name]["packets"] = packets
    found = ask_more(cluster, probes, asked)
    # Once more, where a compaction came between.
    if etcd_data.compacted_apart(member_data(members(cluster, found))):
        found = ask_more(cluster, found, {machine.name: hashed for machine in cluster.etcd_members})
    return found


def judge(
    cluster: Cluster,
    probes: Sequence[Probe],
    *,
    endpoint_says: str,
    certificates: Sequence[dict[str, str]],
    firewall_here: Sequence[FirewallStatus] = (),
    now: datetime,
) -> Status:
    """The status that these answers make.

    Args:
        cluster: the lab.
        probes: what its machines said.
        endpoint_says: "ok", or what was wrong when the endpoint was asked.
        certificates: the program's output.
        firewall_here: of the host of a lab of containers.
        now: the Pulumi host's time.
    """
    renewal = timedelta(hours=cluster.stack.early_renewal_hours)
    machines = [machine_status(cluster, probe) for probe in probes]
    etcd = members(cluster, probes) if cluster.has("etcd") else []
    has_api = cluster.has("control-plane")
    seen_by, objects, clock = objects_seen(probes)
    leases = [lease_status(name, objects, clock or now) for name in LEASES] if has_api else []
    servers = [api_server_status(probe) for probe in probes if has_api and Role.CONTROLLER in probe.machine.roles]
    has_balancer = cluster.has("load-balancer")
    balancers = [probe for probe in probes if has_balancer and Role.LOAD_BALANCER in probe.machine.roles]
    backends = [row for probe in balancers for row in backend_statuses(probe)]
    endpoint = endpoint_status(cluster, probes, endpoint_says)
    nodes = [node_status(item) for item in objects if item["kind"] == "Node"]
    ends = [
        *(
            certificate_status(each["name"], each["subject"], each["not_after"], "./hardway up", now, renewal)
            for each in certificates
        ),
        *(each for probe in probes for each in issued(probe, now, renewal)),
    ]
    dns = dns_status(objects) if seen_by is not None and cluster.has("dns") else None
    ways = pod_network.judge(cluster, probes, objects) if cluster.has("pod-network") else []
    snapshots = [snapshot_status(probe) for probe in probes if probe.reached and "snapshot" in probe.answers]
    walls = [*firewall_here, *firewalls.of_machines(cluster, probes)]
    explained = _explained(machines, nodes, walls)
    # Of a machine that does not answer that alone is said.
    reached = {each.name for each in machines if each.reached}
    problems = [
        *machine_problems(machines),
        *(etcd_problems(etcd, reached) if cluster.has("etcd") else ()),
        *(
            f"the API server on {each.machine}: {api_problem(each)}"
            for each in servers
            if each.machine in reached and not each.ready
        ),
        *(balancer_problems(endpoint, backends, balancers) if has_balancer else ()),
        *(object_problems(cluster, seen_by, leases, nodes) if has_api else ()),
        *certificate_problems(probes, ends),
        *firewalls.problems(walls),
        *pod_network.problems(ways, explained),
        # Pods of a machine that has a line of its own are not available.
        *(dns_problems(dns) if dns and not explained else ()),
        *(f"the last snapshot of etcd on {each.machine} {each.message}" for each in snapshots if each.message),
    ]
    return Status(
        stack=cluster.stack.name,
        until=None if cluster.until == COMPLETE else cluster.until,
        time=f"{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        well=not problems,
        problems=problems,
        endpoint=endpoint,
        machines=machines,
        etcd=etcd,
        leases=leases,
        api_servers=servers,
        backends=backends,
        seen_by=seen_by,
        nodes=nodes,
        nodes_not_listed=nodes_not_listed(probes, len(nodes)),
        dns=dns,
        renewal_days=renewal / timedelta(days=1),
        certificates=ends,
        firewalls=walls,
        pod_network=ways,
        snapshots=snapshots,
    )


def _explained(
    machines: Sequence[MachineStatus], nodes: Sequence[NodeStatus], walls: Sequence[FirewallStatus]
) -> set[str]:
    """The machines whose pods are known to get no packets, for another reason than the network between them."""
    if any(each.machine is None and each.drops for each in walls):
        return {each.name for each in machines}
    return {
        *(each.name for each in machines if not each.reached or each.units_down),
        *(each.name for each in nodes if not each.ready),
        *(each.machine for each in walls if each.machine and each.drops),
    }
