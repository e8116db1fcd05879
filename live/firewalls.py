"""What firewalls drop of a lab that is up: the host's of a lab of containers, and each existing host's own.

The rules are read as the preflights read them, and what is found is said in their words.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from components.substrates.existing import firewall
from live.cluster import Cluster
from live.probe import Probe, firewall_question
from toolchain import paths

_CHECK = "components/substrates/containers/firewall_check.py"
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
    if not stack.traits.on_engine:
        return []
    if os.geteuid() != 0:
        return [_unread(None, "only root may read it")]
    # A program of its own: it is the preflight's, which runs by the host's Python.
    command = [sys.executable, "-B", str(paths.checkout() / _CHECK), "--engine", stack.engine]
    command += ["--network", f"hardway-{stack.name}", "--ranges", stack.nodes, stack.pods]
    seconds = cluster.allowed(_SECONDS)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return [_unread(None, f"no answer within {seconds:.0f} s")]
    if done.returncode != 0:
        return [_unread(None, (done.stderr.strip().splitlines() or ["its rules cannot be listed"])[-1])]
    return [FirewallStatus(machine=None, read=True, drops=tuple(filter(None, done.stdout.splitlines())))]


def of_machines(cluster: Cluster, probes: Sequence[Probe]) -> Iterator[FirewallStatus]:
    """Those of the existing hosts that were asked, and answered."""
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
        drops = firewall.problems(found, pods, others, interfaces=ways, is_closed=False)
        yield FirewallStatus(machine=name, read=True, drops=tuple(drops))


def problems(firewalls: Sequence[FirewallStatus]) -> Iterator[str]:
    """What they drop, each with whose it is."""
    for each in firewalls:
        for drop in each.drops:
            yield f"{each.machine or 'the host of the containers'}: {drop}"


def _unread(machine: str | None, why: str) -> FirewallStatus:
    return FirewallStatus(machine=machine, read=False, message=why)
