"""What firewalls drop of a running lab: the host's of a lab of containers, and each existing host's own.

The rules are read as the preflights read them, and what is found is said in their words.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from live.cluster import Cluster
from live.probe import Probe, firewall_question

_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class FirewallStatus:
    """The firewall of one host.

    Args:
        machine: whose; null for the host of a lab of containers.
        read: whether its rules could be read.
        message: why not.
        drops: what of the lab's packets it drops, each with the command that lets them pass.
    """

    machine: str | None
    read: bool
    message: str = ""
    drops: tuple[str, ...] = ()


def of_pulumi_host(cluster: Cluster) -> list[FirewallStatus]:
    """That of the host of a lab of containers, through which its packets go; none for other labs."""
    stack = cluster.stack
    arguments = stack.traits.load_operations().pulumi_host_firewall(stack.name, stack.engine, [stack.nodes, stack.pods])
    if not arguments:
        return []
    if os.geteuid() != 0:
        return [_unread(None, "only root may read it")]
    seconds = cluster.allowed(_SECONDS)
    try:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return [_unread(None, f"no answer within {seconds:.0f} s")]
    if done.returncode != 0:
        return [_unread(None, (done.stderr.strip().splitlines() or ["its rules cannot be listed"])[-1])]
    return [FirewallStatus(machine=None, read=True, drops=tuple(filter(None, done.stdout.splitlines())))]


def of_machines(cluster: Cluster, probes: Sequence[Probe]) -> Iterator[FirewallStatus]:
    """Those of the existing hosts that were asked, and answered."""
    operations = cluster.stack.traits.load_operations()
    for probe in probes:
        if not probe.reached or firewall_question(cluster, probe.machine) is None:
            continue
        answer = probe.answer("firewall")
        name = probe.machine.name
        found: dict[str, list[str]] = {}
        for line in answer.out.splitlines():
            word, _, value = line.partition(" ")
            found.setdefault(word, []).append(value)
        if answer.status != 0 or "unread" in found:
            yield _unread(name, answer.why if answer.status else "; ".join(found["unread"]))
            continue
        addresses = probe.answer("addresses").out.splitlines()
        ways = [line.split()[1] for line in addresses if f" {probe.machine.address}/" in line]
        pods = IPv4Network(cluster.stack.pods)
        others = [IPv4Network(other.address) for other in cluster.machines if other.name != name]
        drops = operations.firewall_problems(found, pods, others, ways)
        yield FirewallStatus(machine=name, read=True, drops=tuple(drops))


def problems(firewalls: Sequence[FirewallStatus]) -> Iterator[str]:
    """What they drop, each with whose it is."""
    for each in firewalls:
        for drop in each.drops:
            yield f"{each.machine or 'the host of the containers'}: {drop}"


def _unread(machine: str | None, why: str) -> FirewallStatus:
    return FirewallStatus(machine=machine, read=False, message=why)
