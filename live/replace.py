"""`./hardway replace`: destroys and recreates machines, also ones that do not answer; they rejoin, no data are lost."""

import time
from collections.abc import Iterable, Sequence

from live import nodes
from live.cluster import Cluster
from live.probe import Probe, probe_all
from live.status.etcd import MemberStatus, members
from toolchain import access, operations, prepare
from toolchain.errors import ToolchainError
from toolchain.progress import Report

_NODES_SECONDS = 120
# An election takes a second or two, on a busy host longer.
_ELECTION_SECONDS = 10
_LOOK_EVERY = 0.5


def replace(cluster: Cluster, names: Sequence[str], *, insist: bool) -> int:
    """Recreate machines, and end as `./hardway up` does.

    Args:
        cluster: the lab.
        names: of the machines.
        insist: go on although etcd's quorum is lost by it.

    Returns:
        The exit status of `pulumi up`.

    Raises:
        ToolchainError: a name is wrong, or etcd would lose its quorum, and nothing was changed; or a Node did not come.
    """
    check_names(cluster, names)
    stack = cluster.stack
    with operations.alone(stack, "./hardway replace"):
        with operations.pulumi_kept_out(stack, "./hardway replace"):
            probes = probe_all(cluster)
            if any(machine.name in names for machine in cluster.etcd_members):
                probes = _after_election(cluster, probes, names)
                check_quorum(cluster, members(cluster, probes), names, insist=insist)
            with Report() as report:
                workshop = prepare.everything(report, stack)
        # The CLI holds the lock from here on; what comes after it only waits.
        since = nodes.now()
        status = operations.replace(workshop, stack, names)
        if status != 0:
            return status
        outputs = operations.outputs(workshop, stack)
        access.write(stack, outputs)
        # All that can become Ready: with another load balancer every kubelet has to connect again.
        reached = {probe.machine.name for probe in probes if probe.reached}
        wanted = [each.name for each in cluster.nodes if each.name in reached | set(names)]
        missing = nodes.wait_until_heard(cluster, wanted, since=since, seconds=_NODES_SECONDS)
        access.show(stack, outputs)
    if missing:
        raise ToolchainError(
            f"The machines were recreated, but not all Nodes are Ready after {cluster.allowed(_NODES_SECONDS):.0f} s:"
            f"{nodes.report(cluster, missing)}"
        )
    return 0


def check_names(cluster: Cluster, names: Sequence[str]) -> None:
    """Raises:
    ToolchainError: with all names that no machine has, or there are no names.
    """
    right = [machine.name for machine in cluster.machines]
    if not names:
        raise ToolchainError(f"No machine was given: give one or more of {', '.join(right)}.")
    if wrong := [name for name in dict.fromkeys(names) if name not in right]:
        raise ToolchainError(
            f"No machine is called {' or '.join(wrong)}. Nothing was changed.\nThe machines are {', '.join(right)}."
        )


def check_quorum(cluster: Cluster, found: Sequence[MemberStatus], names: Sequence[str], *, insist: bool) -> None:
    """See that etcd goes on without the members on the machines that are replaced.

    Args:
        cluster: the lab.
        found: all members.
        names: of the machines to be replaced.
        insist: say what will be lost, and go on.

    Raises:
        ToolchainError: it does not, and `INSIST` is not set.
    """
    voters = _voters(found)
    healthy = [each.machine for each in voters if each.healthy]
    remaining = [machine for machine in healthy if machine not in names]
    wanted = _quorum(voters)
    if len(remaining) >= wanted:
        return
    said = (
        f"etcd has {len(voters)} member{'s' if len(voters) > 1 else ''} and needs {wanted} to work. "
        f"Healthy now: {_list(healthy)}. Without {_list(dict.fromkeys(names))}: {_list(remaining)}."
    )
    unhealthy = [each for each in voters if not each.healthy]
    if unhealthy:
        reasons = _list(f"{each.machine or each.id} ({each.message or 'it says so itself'})" for each in unhealthy)
        said += f" Not healthy: {reasons}."
    stack = cluster.stack.name
    if cluster.by_kubeadm:
        raise ToolchainError(
            f"{said} Nothing was changed.\n"
            "Start the members that are down. kubeadm cannot bootstrap a new cluster on machines that joined one: "
            f"if the data are lost, ./hardway destroy -s {stack}, and ./hardway up -s {stack}."
        )
    if not insist:
        raise ToolchainError(
            f"{said} Nothing was changed.\n"
            f"Take a snapshot first (./hardway snapshot -s {stack}), and start members that are down. INSIST=yes "
            "goes on nevertheless; the cluster's data are then gone until a snapshot is restored."
        )
    print(
        f"{said}\nContinuing because you insist: the data of etcd will be lost. "
        f"Afterwards run: ./hardway restore -s {stack} FILE.",
        flush=True,
    )


def _after_election(cluster: Cluster, probes: list[Probe], names: Sequence[str]) -> list[Probe]:
    """Ask again, for a while, as long as the quorum depends on members that are not healthy on machines that answer.

    A machine is often replaced right after it has died. If its member was the leader, the other members elect a new
    leader, and are not healthy until then.
    """
    deadline = time.monotonic() + cluster.allowed(_ELECTION_SECONDS)
    while _may_become_a_quorum(cluster, probes, names) and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        probes = probe_all(cluster)
    return probes


def _may_become_a_quorum(cluster: Cluster, probes: Sequence[Probe], names: Sequence[str]) -> bool:
    reached = {probe.machine.name for probe in probes if probe.reached}
    voters = _voters(members(cluster, probes))
    staying = [each for each in voters if each.machine not in names]
    healthy = sum(each.healthy for each in staying)
    return healthy < _quorum(voters) <= sum(each.healthy or each.machine in reached for each in staying)


def _voters(found: Sequence[MemberStatus]) -> list[MemberStatus]:
    return [each for each in found if each.role != "learner"]


def _quorum(voters: Sequence[MemberStatus]) -> int:
    return len(voters) // 2 + 1


def _list(names: Iterable[str | None]) -> str:
    return ", ".join(map(str, names)) or "none"
