"""etcd in a lab's status: its members, what they hold, and their snapshots."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from live import etcd_data
from live.cluster import Cluster
from live.etcd_data import MemberData
from live.probe import Probe


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
    lists = [(_state(probe), probe.json("members")) for probe in probes]
    known = [(state.get("raftAppliedIndex", 0), found["members"]) for state, found in lists if found]
    if not known:
        return {}
    _, latest = max(known, key=lambda pair: pair[0])
    return {f"{entry['ID']:x}": entry.get("name", "") for entry in latest}


def _state(probe: Probe) -> dict[str, Any]:
    found = probe.json("etcd")
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
    health = probe.json("health")
    healthy = health.get("health") == "true"
    hashed = probe.json("hash")
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


def member_data(found: Sequence[MemberStatus]) -> list[MemberData]:
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


def snapshot_status(probe: Probe) -> SnapshotStatus:
    answer = probe.answer("snapshot")
    failed, _, why = answer.out.partition(" ")
    message = f"failed: {why}" if failed else ""
    if answer.status != 0:
        message = f"is not known: {answer.why}"
    return SnapshotStatus(machine=probe.machine.name, failed=bool(failed), message=message)


def _etcdctl_says(why: str) -> str:
    # Its structured log line ends with what matters.
    try:
        return str(json.loads(why).get("error", why))
    except ValueError:
        return why


def etcd_problems(found: Sequence[MemberStatus], reached: Collection[str]) -> Iterator[str]:
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
    yield from etcd_data.problems(member_data(found))
