"""What is known of a lab at one moment, out of what its machines and its API have said."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from config import health
from live.cluster import Cluster
from live.programs import LEADERS
from live.view.api import Readiness, Watch
from live.view.machines import Facts, Follower, Program

LEADER, FOLLOWER, LEARNER, NO_LEADER = "leader", "follower", "learner", "knows no leader"
_CONNECT_SECONDS = 10
_SERVICE = "kubernetes.io/service-name"
_CURL = {"7": "connection refused", "28": "no answer"}
"""Exit codes of curl."""


@dataclass(frozen=True, kw_only=True)
class MachineNow:
    """One machine.

    Args:
        name, roles, address: as in the lab.
        answers: None while the first connection is made.
        message: why it does not answer.
        programs: the last that it said; None if it never said any.
    """

    name: str
    roles: tuple[str, ...]
    address: str
    answers: bool | None
    message: str = ""
    programs: tuple[Program, ...] | None = None

    @property
    def down(self) -> list[str]:
        """The programs that do not run."""
        return [each.name for each in self.programs or () if not each.runs]

    def runs(self, name: str) -> bool | None:
        """Whether a program, or its unit, runs there; None if that is not known."""
        if not self.answers:
            return self.answers
        return next((each.runs for each in self.programs or () if each.name in (name, f"{name}.service")), None)


@dataclass(frozen=True, kw_only=True)
class MemberNow:
    """One etcd member, by its own word.

    Args:
        machine: where.
        answers: None before it was asked.
        role: LEADER, FOLLOWER, LEARNER or NO_LEADER; empty where it does not answer.
        term: Raft's.
        message: why it does not answer.
    """

    machine: str
    answers: bool | None
    role: str = ""
    term: int | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class LeaseNow:
    """Who leads the controller managers or the schedulers.

    Args:
        name: the program's.
        holder: the machine; None where the lease is free or not known.
        holder_runs: whether the program runs there; None if not known.
        renewed: seconds since the lease was seen to change. A lease that is not renewed for `duration` is free.
        duration: the lease's own.
    """

    name: str
    holder: str | None = None
    holder_runs: bool | None = None
    renewed: float | None = field(default=None, compare=False)
    duration: float = 15

    @property
    def left(self) -> float | None:
        """Seconds until another may take it."""
        return None if self.renewed is None else max(0.0, self.duration - self.renewed)


@dataclass(frozen=True, kw_only=True)
class BackendNow:
    """One server behind one load balancer, in HAProxy's words."""

    balancer: str
    server: str
    status: str
    check: str
    known: bool = True

    @property
    def up(self) -> bool:
        """Whether it gets connections."""
        return health.is_up(self.status)


@dataclass(frozen=True, kw_only=True)
class NodeNow:
    """One Node, by the API."""

    name: str
    ready: bool
    schedulable: bool
    version: str


@dataclass(frozen=True, kw_only=True)
class PodNow:
    """One pod, by the API.

    Args:
        name: namespace/name.
        node: where it is bound to.
        state: Running, Pending, or why a container waits or has ended: CrashLoopBackOff.
        ready: whether it is Ready.
        ip: its address.
        restarts: of all its containers.
    """

    name: str
    node: str
    state: str
    ready: bool
    ip: str
    restarts: int


@dataclass(frozen=True, kw_only=True)
class ServiceNow:
    """The endpoints of one Service: the ready addresses, and how many there are in all."""

    name: str
    ready: tuple[str, ...]
    all: int


@dataclass(frozen=True, kw_only=True)
class LabNow:
    """A lab at one moment. Lists are None before they are known."""

    machines: tuple[MachineNow, ...] = ()
    members: tuple[MemberNow, ...] = ()
    leases: tuple[LeaseNow, ...] = ()
    api_ready: bool | None = None
    api_message: str = ""
    backends: tuple[BackendNow, ...] = ()
    address_on: tuple[str, ...] | None = None
    nodes: tuple[NodeNow, ...] | None = None
    pods: tuple[PodNow, ...] | None = None
    services: tuple[ServiceNow, ...] | None = None
    command: str = ""
    lesson: str = ""
    halted: str = ""

    @property
    def leader(self) -> MemberNow | None:
        """Etcd's leader: a member that answers and says so; of several the one with the highest term."""
        claims = [each for each in self.members if each.answers and each.role == LEADER]
        return max(claims, key=lambda each: each.term or 0, default=None)

    @property
    def etcd_known(self) -> bool:
        """Whether every member was asked, or could not be."""
        return all(each.answers is not None for each in self.members)

    def machine(self, name: str) -> MachineNow | None:
        """A machine by its name."""
        return next((each for each in self.machines if each.name == name), None)


class Look:
    """Takes what followers and watches have, again and again; what the API lists is read once for each change.

    Args:
        cluster: the lab.
        followers: of all its machines.
        readiness: of its API.
        watches: by the names of `api.PATHS`.
    """

    def __init__(
        self, cluster: Cluster, followers: Sequence[Follower], readiness: Readiness, watches: Mapping[str, Watch]
    ) -> None:
        self._cluster, self._followers = cluster, followers
        self._readiness, self._watches = readiness, watches
        self._read: dict[str, tuple[int, Any]] = {}

    def now(self, *, command: str = "", lesson: str = "", halted: str = "") -> LabNow:
        """The lab now.

        Args:
            command: the command that is at work on the lab.
            lesson: the lesson that the lab has.
            halted: why the lab does not run.
        """
        now = time.monotonic()
        connecting = self._cluster.allowed(_CONNECT_SECONDS)
        machines = tuple(machine_now(each, now, connecting=connecting) for each in self._followers)
        answering = {each.name: each.answers for each in machines}
        members = {machine.name for machine in self._cluster.etcd_members}
        facts = {each.machine.name: each.facts for each in self._followers}
        shared = [(name, each.holds) for name, each in facts.items() if each.holds is not None]
        lab = LabNow(
            machines=machines,
            members=tuple(member_now(name, facts[name], answering[name]) for name in answering if name in members),
            api_ready=self._readiness.ready,
            api_message=self._readiness.message,
            backends=tuple(
                BackendNow(balancer=name, server=server, status=status, check=check, known=bool(answering[name]))
                for name, each in facts.items()
                for server, (status, check) in each.backends.items()
            ),
            address_on=tuple(name for name, holds in shared if holds and answering[name]) if shared else None,
            nodes=self._list("nodes", node_now),
            pods=self._list("pods", pod_now),
            services=self._services(),
            command=command,
            lesson=lesson,
            halted=halted,
        )
        return replace(lab, leases=tuple(self._lease(name, lab, now) for name in LEADERS))

    def _list(self, name: str, make: Any) -> Any:
        watch = self._watches[name]
        if not watch.listed:
            return None
        items = watch.items
        known = self._read.get(name)
        if known is None or known[0] != id(items):
            made = tuple(sorted((make(item) for item in items.values()), key=lambda each: str(each.name)))
            # The dictionary is kept: its `id` is not used again.
            known = self._read[name] = (id(items), (made, items))
        return known[1][0]

    def _services(self) -> tuple[ServiceNow, ...] | None:
        slices = self._list("slices", _slice)
        if slices is None:
            return None
        found: dict[str, list[_Slice]] = {}
        for each in slices:
            found.setdefault(each.name, []).append(each)
        return tuple(
            ServiceNow(
                name=name,
                ready=tuple(sorted(address for each in parts for address in each.ready)),
                all=sum(each.all for each in parts),
            )
            for name, parts in found.items()
        )

    def _lease(self, name: str, lab: LabNow, now: float) -> LeaseNow:
        watch = self._watches["leases"]
        for uid, item in watch.items.items():
            if item["metadata"]["name"] == name:
                spec = item["spec"]
                # "controller-0_8a4e...": the machine and a number of its own
                holder = (spec.get("holderIdentity") or "").rpartition("_")[0] or None
                duration = spec.get("leaseDurationSeconds", 15)
                age = now - watch.changed_at.get(uid, now)
                machine = lab.machine(holder) if holder else None
                # Without the API nobody renews it, and nobody is seen to take it.
                if age > duration and lab.api_ready:
                    holder = None
                runs = machine.runs(name) if machine and holder else None
                return LeaseNow(name=name, holder=holder, holder_runs=runs, renewed=age, duration=duration)
        return LeaseNow(name=name)


def machine_now(follower: Follower, now: float, *, connecting: float) -> MachineNow:
    """One machine: it answers while it prints."""
    machine, quiet = follower.machine, follower.silent_for(now)
    answers: bool | None = quiet is not None and quiet <= follower.allowed_silence
    message = ""
    if quiet is None and not follower.message and now - follower.began < connecting:
        answers = None
    elif not answers:
        message = follower.message or "no answer"
    return MachineNow(
        name=machine.name,
        roles=tuple(sorted(machine.roles)),
        address=machine.address,
        answers=answers,
        message=message,
        programs=follower.facts.programs,
    )


def member_now(machine: str, facts: Facts, answering: bool | None) -> MemberNow:
    """An etcd member, by the last that machine.sh said of it."""
    if not answering or facts.member is None:
        message = "the machine does not answer" if answering is False else ""
        return MemberNow(machine=machine, answers=answering if not answering else None, message=message)
    if facts.member[0] == "-":
        # "7 000 Failed to connect to 127.0.0.1 port 2379 after 0 ms: Couldn't connect to server"
        code, _, rest = facts.member[1].partition(" ")
        status, _, words = rest.partition(" ")
        message = _CURL.get(code) or words or f"HTTP {status}"
        return MemberNow(machine=machine, answers=False, message=message)
    id_, leader, term, kind = facts.member
    role = LEADER if leader == id_ else FOLLOWER if leader != "0" else NO_LEADER
    return MemberNow(machine=machine, answers=True, role=LEARNER if kind == "learner" else role, term=int(term))


def node_now(item: Mapping[str, Any]) -> NodeNow:
    """A Node, by its object."""
    return NodeNow(
        name=item["metadata"]["name"],
        ready=health.has_condition(item),
        schedulable=not item["spec"].get("unschedulable", False),
        version=item["status"].get("nodeInfo", {}).get("kubeletVersion", ""),
    )


def pod_now(item: Mapping[str, Any]) -> PodNow:
    """A pod, by its object."""
    status, metadata = item["status"], item["metadata"]
    containers = status.get("containerStatuses") or []
    state = status.get("phase", "Unknown")
    for container in containers:
        said = container.get("state", {})
        why = said.get("waiting") or said.get("terminated") or {}
        if why.get("reason") and state != "Succeeded":
            state = why["reason"]
    if status.get("reason"):
        state = status["reason"]
    if metadata.get("deletionTimestamp"):
        state = "Terminating"
    return PodNow(
        name=f"{metadata['namespace']}/{metadata['name']}",
        node=item["spec"].get("nodeName", ""),
        state=state,
        ready=health.has_condition(item, "Ready"),
        ip=status.get("podIP", ""),
        restarts=sum(each.get("restartCount", 0) for each in containers),
    )


@dataclass(frozen=True, kw_only=True)
class _Slice:
    name: str
    ready: tuple[str, ...]
    all: int


def _slice(item: Mapping[str, Any]) -> _Slice:
    metadata = item["metadata"]
    endpoints = item.get("endpoints") or ()
    service = metadata.get("labels", {}).get(_SERVICE) or metadata["name"]
    return _Slice(
        name=f"{metadata['namespace']}/{service}",
        ready=tuple(
            address
            for each in endpoints
            # Not said means ready.
            if each.get("conditions", {}).get("ready", True)
            for address in each["addresses"]
        ),
        all=sum(len(each["addresses"]) for each in endpoints),
    )
