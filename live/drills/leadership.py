"""Which machine is worst to lose: who leads etcd and by lease, who has the shared address, who has DNS.

Losing the machine that is the leader of everything is the worst case, so leadership is moved to one machine first.
"""

import json
import subprocess
from typing import Any
from urllib.parse import urlsplit

from config import health
from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.drills.probes import OWN_MEMBER
from live.last_lines import Logged, last_lines
from live.programs import LEADERS, program
from live.waiting import still_missing
from toolchain.errors import ToolchainError

COMMAND = "./hardway drill"
"""What waits for a machine that a drill changes reads this."""
_MOVES_WITHIN = 45
"""Seconds: a lease that is not renewed is taken over after 15; one that was released, at once."""


def etcd_leader(cluster: Cluster) -> LiveMachine:
    """The machine of etcd's leader.

    Raises:
        ToolchainError: no member knows of one.
    """
    for member in cluster.etcd_members:
        for status in _statuses(cluster, member):
            if status["Status"]["leader"] == status["Status"]["header"]["member_id"]:
                return _at(cluster, status["Endpoint"])
    raise ToolchainError("No etcd member reports a leader.")


def etcd_follower(cluster: Cluster) -> LiveMachine:
    """A machine with a member that does not lead."""
    leader = etcd_leader(cluster)
    return next(member for member in cluster.etcd_members if member != leader)


def holder(cluster: Cluster, leader: str) -> LiveMachine:
    """The machine of the instance that leads.

    Args:
        cluster: the lab.
        leader: one of LEADERS.

    Raises:
        ToolchainError: the API does not say, or none leads.
    """
    found = _holder(cluster, leader)
    if found is None:
        raise ToolchainError(f"{leader} has no leader.")
    return found


def _holder(cluster: Cluster, leader: str) -> LiveMachine | None:
    shown = cluster.kubectl(
        "get", "lease", leader, "--namespace", "kube-system", "--output", "jsonpath={.spec.holderIdentity}"
    )
    if shown.returncode != 0:
        raise ToolchainError(f"The leader of {leader} cannot be asked: {shown.stderr.strip()}")
    # A leader that ended in order has released its lease: it has no holder.
    return cluster.machine(shown.stdout.rpartition("_")[0]) if shown.stdout else None


def most_leading(cluster: Cluster) -> LiveMachine:
    """Where leadership is best gathered: etcd's leader where members are machines of their own, else the controller
    manager's.
    """
    if cluster.with_role(Role.ETCD):
        return etcd_leader(cluster)
    return holder(cluster, LEADERS[0])


def balancer_in_front(cluster: Cluster) -> LiveMachine:
    """The balancer that has the API's address: the only one, or the one that holds the shared address now."""
    balancers = cluster.with_role(Role.LOAD_BALANCER)
    if len(balancers) == 1:
        return balancers[0]
    address = urlsplit(cluster.endpoint).hostname
    for balancer in balancers:
        if cluster.ssh(balancer, f"ip -4 -o address show to {address}").stdout.strip():
            return balancer
    raise ToolchainError(f"No balancer has the shared address {address}.")


def dns_on(cluster: Cluster) -> set[str]:
    """The names of the workers with a replica of DNS."""
    words = "get", "pods", "--namespace", "kube-system", "--selector", "=".join(health.DNS_LABEL)
    return set(cluster.kubectl(*words, "--output", "jsonpath={.items[*].spec.nodeName}").stdout.split())


def gather(cluster: Cluster, machine: LiveMachine) -> None:
    """Have a machine lead in everything that it takes part in: etcd, controller manager, scheduler.

    Raises:
        ToolchainError: it did not become the leader of within its time.
    """
    if Role.CONTROLLER in machine.roles:
        try:
            for each in LEADERS:
                _take_lease(cluster, machine, each)
        finally:
            release(cluster)
    if machine in cluster.etcd_members and (leader := etcd_leader(cluster)) != machine:
        target = next(s for s in _statuses(cluster, leader) if _at(cluster, s["Endpoint"]) == machine)
        member = target["Status"]["header"]["member_id"]
        done = cluster.change(leader, f"{OWN_MEMBER}\netcdctl move-leader {member:x}", command=COMMAND)
        if done.returncode != 0:
            raise ToolchainError(f"etcd's leadership does not move to {machine.name}: {done.stderr.strip()}")


def release(cluster: Cluster) -> None:
    """Have every instance of what leads by lease run: those that were stopped while leadership was gathered."""
    start = "\n".join(program(cluster, each).start() for each in LEADERS)
    for controller in cluster.with_role(Role.CONTROLLER):
        try:
            cluster.change(controller, start, command=COMMAND)
        except subprocess.TimeoutExpired:
            continue


def _take_lease(cluster: Cluster, machine: LiveMachine, leader: str) -> None:
    if _holder(cluster, leader) == machine:
        return
    for other in cluster.with_role(Role.CONTROLLER):
        if other != machine:
            cluster.change(other, program(cluster, leader).stop(), command=COMMAND)
    allowed = cluster.allowed(_MOVES_WITHIN)
    if still_missing(lambda: _holder(cluster, leader) != machine, allowed):
        logs = last_lines(cluster, [Logged(machine, leader)])
        raise ToolchainError(f"{machine.name} did not become the leader of {leader} within {allowed:.0f} s.{logs}")


def _statuses(cluster: Cluster, member: LiveMachine) -> list[dict[str, Any]]:
    done = cluster.ssh(member, f"{OWN_MEMBER}\netcdctl endpoint status --cluster -w json")
    try:
        return list(json.loads(done.stdout))
    except ValueError:
        return []


def _at(cluster: Cluster, endpoint: str) -> LiveMachine:
    address = urlsplit(endpoint).hostname
    return next(machine for machine in cluster.machines if machine.address == address)
