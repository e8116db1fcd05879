"""How a lab is: gathered from all of its machines at once, judged, and shown as a table or as JSON.

The JSON of `./hardway status --json` is the dataclass `Status`, field by field; sizes are bytes, times RFC 3339 in UTC.
A field without an answer is null (or an empty list), and `problems` says why.
"""

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from subprocess import TimeoutExpired
from typing import Any
from urllib.parse import urlsplit

from config import health
from config.machines import Role
from live import etcd_data, firewalls, pod_network
from live.cluster import Cluster
from live.etcd_data import MemberData
from live.firewalls import FirewallStatus
from live.pod_network import PodNetworkStatus
from live.probe import (
    SNAPSHOT_SERVICE,
    Probe,
    ask_more,
    expected_pods,
    expected_units,
    own_etcdctl,
    probe_all,
)
from toolchain import access

_LEASES = ("kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, kw_only=True)
class MachineStatus:
    """One machine.

    Args:
        name, roles: as in the lab.
        reached: whether it answered by ssh.
        foreign: whether it did not because it was recreated from another checkout or another state.
        message: why it did not answer.
        units_down: units that should run and do not, units that have failed, and kubeadm's pods that do not run.
    """

    name: str
    roles: list[str]
    reached: bool
    foreign: bool
    message: str
    units_down: list[str]


@dataclass(frozen=True, kw_only=True)
class MemberStatus:
    """One etcd member, as it sees itself.

    Args:
        machine: where it runs; null for a member that the cluster knows and the lab has no machine for.
        name, id: as in the member list; the id in hexadecimal digits; null where the cluster knows no such member.
        role: leader, follower or learner; null where it did not answer or knows of no leader.
        healthy: whether it takes writes, by its own /health.
        message: why not.
        term, revision, raft_index: of Raft and of the store.
        db_size, db_size_in_use: bytes.
        alarms: NOSPACE, CORRUPT.
        version: of etcd.
        cluster_id: of the cluster that it belongs to, in hexadecimal digits.
        hash: of its data up to a revision that all members have; null where there is nothing to compare it with.
        compacted: the revision that it had compacted to then.
        hash_message: why it told none although it was asked.
    """

    machine: str | None
    name: str | None = None
    id: str | None = None
    role: str | None = None
    healthy: bool = False
    message: str = ""
    term: int | None = None
    revision: int | None = None
    raft_index: int | None = None
    db_size: int | None = None
    db_size_in_use: int | None = None
    alarms: tuple[str, ...] = ()
    version: str | None = None
    cluster_id: str | None = None
    hash: int | None = None
    compacted: int | None = None
    hash_message: str = ""


@dataclass(frozen=True, kw_only=True)
class SnapshotStatus:
    """The snapshots that one etcd member takes of itself.

    Args:
        machine: where.
        failed: whether the last one failed.
        message: the last that it said then; or why it is not known.
    """

    machine: str
    failed: bool
    message: str


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
class BackendStatus:
    """One server behind one balancer.

    Args:
        balancer: the machine with HAProxy.
        backend, server: as in its configuration.
        up: whether it gets connections.
        status: HAProxy's own word.
        check: how the last check ended.
    """

    balancer: str
    backend: str
    server: str
    up: bool
    status: str
    check: str


@dataclass(frozen=True, kw_only=True)
class EndpointStatus:
    """The address that people and workers know the API by.

    Args:
        url: https://address:6443.
        ready: what /readyz says there, asked from the Pulumi host.
        message: why not.
        held_by: the machines that have the address.
    """

    url: str
    ready: bool
    message: str
    held_by: list[str]


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


@dataclass(frozen=True, kw_only=True)
class CertificateStatus:
    """One certificate of the lab.

    Args:
        name, subject: as in the program's output; of what kubeadm issued its name for it and the machine, and null.
        not_after: its end.
        days_left: until then.
        ends_soon: whether that is within `renewal_days`.
        renewed_by: the command; where it is kubeadm's, on that machine.
    """

    name: str
    subject: str | None
    not_after: str
    days_left: float
    ends_soon: bool
    renewed_by: str


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a lab is.

    Args:
        stack: which lab.
        time: when it was asked.
        well: whether there are no problems.
        problems: each in one sentence.
        seen_by: the controller whose API server told of leases and nodes; null where none could.
        dns: null likewise.
        renewal_days: a `./hardway up` this many days before a certificate's end renews those that the stack made.
    """

    stack: str
    time: str
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
        asked = threads.submit(ask_endpoint, cluster)
        read = threads.submit(firewalls.of_pulumi_host, cluster)
        probes = _ask_what_depends(cluster, probe_all(cluster))
        said, here = asked.result(), read.result()
    certificates = access.read(cluster.stack).get("certificates", [])
    return judge(
        cluster, probes, endpoint_says=said, certificates=certificates, firewall_here=here, now=datetime.now(UTC)
    )


def _ask_what_depends(cluster: Cluster, probes: Sequence[Probe]) -> list[Probe]:
    """Ask what depends on what machines have said: hashes of etcd's data, and packets to pods on other nodes."""
    revision = etcd_data.common_revision(_data(members(cluster, probes)))
    hashed = {} if revision is None else {"hash": f"{own_etcdctl(cluster)} endpoint hashkv --rev={revision}"}
    _, objects, _ = _objects(probes)
    asked = {}
    for probe in probes:
        if not probe.reached:
            continue
        asked[probe.machine.name] = dict(hashed) if probe.machine in cluster.etcd_members else {}
        if packets := pod_network.packets_question(cluster, probe, objects):
            asked[probe.machine.name]["packets"] = packets
    found = ask_more(cluster, probes, asked)
    # Once more, where a compaction came between.
    if etcd_data.compacted_apart(_data(members(cluster, found))):
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
    etcd = members(cluster, probes)
    seen_by, objects, clock = _objects(probes)
    leases = [_lease(name, objects, clock or now) for name in _LEASES]
    servers = [_api_server(probe) for probe in probes if Role.CONTROLLER in probe.machine.roles]
    balancers = [probe for probe in probes if Role.LOAD_BALANCER in probe.machine.roles]
    backends = [row for probe in balancers for row in _backends(probe)]
    endpoint = _endpoint(cluster, probes, endpoint_says)
    nodes = [node_status(item) for item in objects if item["kind"] == "Node"]
    ends = [
        *(
            _certificate(each["name"], each["subject"], each["not_after"], "./hardway up", now, renewal)
            for each in certificates
        ),
        *(each for probe in probes for each in _issued(probe, now, renewal)),
    ]
    dns = None if seen_by is None else _dns(objects)
    ways = pod_network.judge(cluster, probes, objects)
    snapshots = [_snapshot(probe) for probe in probes if probe.reached and "snapshot" in probe.answers]
    walls = [*firewall_here, *firewalls.of_machines(cluster, probes)]
    explained = _explained(machines, nodes, walls)
    # Of a machine that does not answer that alone is said.
    reached = {each.name for each in machines if each.reached}
    problems = [
        *machine_problems(machines),
        *_etcd_problems(etcd, reached),
        *(
            f"the API server on {each.machine}: {_api_problem(each)}"
            for each in servers
            if each.machine in reached and not each.ready
        ),
        *_balancer_problems(endpoint, backends, balancers),
        *_object_problems(cluster, seen_by, leases, nodes),
        *_certificate_problems(probes, ends),
        *firewalls.problems(walls),
        *pod_network.problems(ways, explained),
        # Pods of a machine that has a line of its own are not available.
        *(_dns_problems(dns) if dns and not explained else ()),
        *(f"the last snapshot of etcd on {each.machine} {each.message}" for each in snapshots if each.message),
    ]
    return Status(
        stack=cluster.stack.name,
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
        dns=dns,
        renewal_days=renewal / timedelta(days=1),
        certificates=ends,
        firewalls=walls,
        pod_network=ways,
        snapshots=snapshots,
    )


def members(cluster: Cluster, probes: Sequence[Probe]) -> list[MemberStatus]:
    """Every etcd member that the lab is to have, and those that the cluster knows of beside them."""
    by_name = {probe.machine.name: probe for probe in probes}
    asked = [by_name[machine.name] for machine in cluster.etcd_members if machine.name in by_name]
    known = _member_list(asked)
    found = [_member(probe, known) for probe in asked]
    ours = {probe.machine.name for probe in asked}
    return [
        *found,
        *(
            MemberStatus(machine=None, name=name, id=id_, message="the lab has no machine for it")
            for id_, name in known.items()
            if name not in ours
        ),
    ]


def _member_list(probes: Sequence[Probe]) -> dict[str, str]:
    """Id -> name, of the members as the one that has come furthest knows them; a new one has no name yet."""
    lists = [(_state(probe), _json(probe, "members")) for probe in probes]
    known = [(state.get("raftAppliedIndex", 0), found["members"]) for state, found in lists if found]
    if not known:
        return {}
    _, latest = max(known, key=lambda pair: pair[0])
    return {f"{entry['ID']:x}": entry.get("name", "") for entry in latest}


def _state(probe: Probe) -> dict[str, Any]:
    found = _json(probe, "etcd")
    state: dict[str, Any] = found[0]["Status"] if found else {}
    return state


def _member(probe: Probe, known: dict[str, str]) -> MemberStatus:
    name = probe.machine.name
    state = _state(probe)
    if not state:
        id_ = next((id_ for id_, of in known.items() if of == name), None)
        why = probe.answer("etcd").why
        return MemberStatus(machine=name, name=name if id_ else None, id=id_, message=_etcdctl_says(why))
    id_ = f"{state['header']['member_id']:x}"
    leader = state.get("leader", 0)
    role = None
    if leader:
        role = "leader" if leader == state["header"]["member_id"] else "follower"
    if state.get("isLearner"):
        role = "learner"
    errors = [str(error).strip() for error in state.get("errors", [])]
    health = _json(probe, "health")
    healthy = health.get("health") == "true"
    hashed = _json(probe, "hash")
    told = hashed[0]["HashKV"] if hashed else {}
    reason = "" if healthy else (health.get("reason") or probe.answer("health").why)
    return MemberStatus(
        machine=name,
        name=known.get(id_) or name,
        id=id_,
        role=role,
        healthy=healthy,
        message=reason or "; ".join(error for error in errors if "alarm:" not in error),
        term=state.get("raftTerm"),
        revision=state["header"].get("revision"),
        raft_index=state.get("raftIndex"),
        db_size=state.get("dbSize"),
        db_size_in_use=state.get("dbSizeInUse"),
        # "memberID:1234 alarm:NOSPACE "
        alarms=tuple(error.partition("alarm:")[2] for error in errors if "alarm:" in error),
        version=state.get("version"),
        cluster_id=f"{state['header']['cluster_id']:x}",
        hash=told.get("hash"),
        compacted=told.get("compact_revision"),
        hash_message="" if told else _etcdctl_says(probe.answer("hash").why),
    )


def _data(found: Sequence[MemberStatus]) -> list[MemberData]:
    """The data of the members that vote and have told their revision."""
    return [
        MemberData(
            name=each.name or each.machine,
            cluster_id=each.cluster_id,
            revision=each.revision,
            hash=each.hash,
            compacted=each.compacted,
            message=each.hash_message,
        )
        for each in found
        if each.machine and each.cluster_id and each.revision is not None and each.role != "learner"
    ]


def _snapshot(probe: Probe) -> SnapshotStatus:
    answer = probe.answer("snapshot")
    failed, _, why = answer.out.partition(" ")
    message = f"failed: {why}" if failed else ""
    if answer.status != 0:
        message = f"is not known: {answer.why}"
    return SnapshotStatus(machine=probe.machine.name, failed=bool(failed), message=message)


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


def _etcdctl_says(why: str) -> str:
    # Its structured log line ends with what matters.
    try:
        return str(json.loads(why).get("error", why))
    except ValueError:
        return why


def machine_status(cluster: Cluster, probe: Probe) -> MachineStatus:
    """A machine, by what it said: see `probe.unit_questions`."""
    down: list[str] = []
    if probe.reached:
        expected = expected_units(cluster, probe.machine)
        states = probe.answer("units").out.split()
        if probe.answer("units").status != 0 or len(states) != len(expected):
            down.append("systemd, which tells nothing of units,")
        down += [unit for unit, state in zip(expected, states, strict=False) if state != "active"]
        pods = zip(expected_pods(cluster, probe.machine), probe.answer("pods").out.split(), strict=False)
        down += [f"the pod {pod}" for pod, state in pods if state != "active"]
        if expected_pods(cluster, probe.machine) and probe.answer("pods").status != 0:
            down.append("containerd, which tells nothing of pods,")
        failed = [line.split()[0] for line in probe.answer("failed").out.splitlines() if line.split()]
        if "snapshot" in probe.answers:
            # It has a line of its own, which says why.
            failed = [unit for unit in failed if unit != SNAPSHOT_SERVICE]
        down += [unit for unit in failed if unit not in down]
    return MachineStatus(
        name=probe.machine.name,
        roles=sorted(probe.machine.roles),
        reached=probe.reached,
        foreign=probe.is_foreign,
        message=probe.missing,
        units_down=down,
    )


def _objects(probes: Sequence[Probe]) -> tuple[str | None, list[dict[str, Any]], datetime | None]:
    """Who told of the objects in the API, the objects, and the time there; the first controller that can."""
    for probe in probes:
        found = _json(probe, "objects")
        if found:
            clock = datetime.fromtimestamp(float(probe.answer("clock").out), UTC)
            return probe.machine.name, found["items"], clock
    return None, [], None


def _lease(name: str, objects: Sequence[dict[str, Any]], clock: datetime) -> LeaseStatus:
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


def _api_server(probe: Probe) -> ApiServerStatus:
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


def _backends(probe: Probe) -> Iterator[BackendStatus]:
    answer = probe.answer("backends")
    if answer.status != 0:
        return
    for row in csv.DictReader(answer.out.removeprefix("# ").splitlines()):
        if row["svname"] not in ("FRONTEND", "BACKEND"):
            yield BackendStatus(
                balancer=probe.machine.name,
                backend=row["pxname"],
                server=row["svname"],
                up=health.is_up(row["status"]),
                status=row["status"],
                # "* L7STS" while the next check is under way
                check=(row["last_chk"] or row["check_status"]).removeprefix("* "),
            )


def _endpoint(cluster: Cluster, probes: Sequence[Probe], says: str) -> EndpointStatus:
    address = urlsplit(cluster.endpoint).hostname
    return EndpointStatus(
        url=cluster.endpoint,
        ready=says == "ok",
        message="" if says == "ok" else says,
        held_by=[probe.machine.name for probe in probes if f" {address}/" in probe.answer("addresses").out],
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


def _dns(objects: Sequence[dict[str, Any]]) -> DnsStatus:
    for item in objects:
        if item["kind"] == "Deployment" and item["metadata"]["name"] == health.DNS:
            available, wanted = health.replicas(item)
            return DnsStatus(available=available, replicas=wanted)
    return DnsStatus()


def _dns_problems(dns: DnsStatus) -> Iterator[str]:
    if not dns.replicas:
        yield f"the Deployment {health.DNS} of the cluster's DNS is not in the API, or has no replicas"
    elif dns.available != dns.replicas:
        yield f"DNS has {dns.available} of {dns.replicas} replicas available"


def _issued(probe: Probe, now: datetime, renewal: timedelta) -> Iterator[CertificateStatus]:
    """The certificates that kubeadm issued on a controller, which the stack does not know."""
    found = _json(probe, "certificates")
    for each in found.get("certificates", []):
        if not each["missing"]:
            name = f"{each['name']} of {probe.machine.name}"
            yield _certificate(name, None, each["expirationDate"], "kubeadm certs renew all", now, renewal)


def _certificate(
    name: str, subject: str | None, not_after: str, renewed_by: str, now: datetime, renewal: timedelta
) -> CertificateStatus:
    left = datetime.fromisoformat(not_after) - now
    return CertificateStatus(
        name=name,
        subject=subject,
        not_after=not_after,
        days_left=round(left / timedelta(days=1), 1),
        ends_soon=left <= renewal,
        renewed_by=renewed_by,
    )


def machine_problems(machines: Sequence[MachineStatus]) -> Iterator[str]:
    """What is wrong with the machines."""
    for machine in machines:
        if machine.foreign:
            yield (
                f"{machine.name} was recreated from another checkout or another state: its SSH host key is not the one "
                "that this lab has pinned. Work where it was recreated; or run `./hardway destroy` there, and "
                "`./hardway up` here"
            )
        elif not machine.reached:
            yield f"{machine.name} does not answer: {machine.message}"
        for unit in machine.units_down:
            yield f"{unit} on {machine.name} does not run"


def _etcd_problems(found: Sequence[MemberStatus], reached: Collection[str]) -> Iterator[str]:
    for member in found:
        at = f"the etcd member {member.name or member.id or member.machine}"
        if member.machine is None:
            yield f"{at}: {member.message}"
        elif member.machine in reached and not member.healthy:
            yield f"{at} is not healthy: {member.message or 'it says so itself'}"
        elif member.role == "learner":
            yield f"{at} is still a learner"
        for alarm in member.alarms:
            yield f"{at} has raised the alarm {alarm}"
    if not any(member.role == "leader" for member in found):
        yield "no etcd member that answers is the leader"
    yield from etcd_data.problems(_data(found))


def _api_problem(server: ApiServerStatus) -> str:
    return f"not ready: {', '.join(server.failing)}" if server.failing else server.message


def _balancer_problems(
    endpoint: EndpointStatus, backends: Sequence[BackendStatus], balancers: Sequence[Probe]
) -> Iterator[str]:
    if not endpoint.ready:
        yield f"the endpoint {endpoint.url}: {endpoint.message}"
    # Where no machine balances, the address is none of theirs.
    if balancers and len(endpoint.held_by) != 1:
        yield f"the endpoint's address is held by {' and '.join(endpoint.held_by) or 'no machine that answers'}"
    for probe in balancers:
        if probe.reached and probe.answer("backends").status != 0:
            yield f"HAProxy on {probe.machine.name} does not report its state: {probe.answer('backends').why}"
    for backend in backends:
        if not backend.up:
            yield f"{backend.balancer}: {backend.server} in {backend.backend} is {backend.status} ({backend.check})"


def _object_problems(
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
    for machine in cluster.nodes:
        if machine.name not in there:
            yield f"{machine.name} has no Node in the API"


def _certificate_problems(probes: Sequence[Probe], ends: Sequence[CertificateStatus]) -> Iterator[str]:
    for probe in probes:
        if "certificates" in probe.answers and probe.answer("certificates").status != 0:
            why = probe.answer("certificates").why
            yield f"kubeadm on {probe.machine.name} does not report its certificates: {why}"
    for each in ends:
        if each.ends_soon:
            ending = "ends" if each.days_left > 0 else "ended"
            yield f"the certificate {each.name} {ending} on {each.not_after}: `{each.renewed_by}` renews it"


def ask_endpoint(cluster: Cluster) -> str:
    """What the endpoint says of itself: "ok", or why it is not ready."""
    said, why = ask_api(cluster, "--raw", health.API_READY)
    return why or said.strip()


def ask_api(cluster: Cluster, *what: str) -> tuple[str, str]:
    """What `kubectl get` prints through the endpoint; or nothing, and why it failed.

    Args:
        cluster: the lab.
        what: its arguments.
    """
    seconds = 5
    try:
        request = f"--request-timeout={cluster.allowed(seconds):.0f}s"
        done = cluster.kubectl("get", *what, request, seconds=2 * seconds)
    except TimeoutExpired:
        return "", f"no answer within {cluster.allowed(2 * seconds):.0f} s"
    if done.returncode == 0:
        return done.stdout, ""
    return "", (done.stderr.strip().splitlines() or ["kubectl failed"])[-1]


def _json(probe: Probe, question: str) -> Any:
    """What a machine answered as JSON; an empty mapping where there is nothing to be read."""
    answer = probe.answer(question)
    # kubectl prints an empty list where it got no answer.
    if answer.status != 0:
        return {}
    try:
        return json.loads(answer.out) or {}
    except ValueError:
        return {}
