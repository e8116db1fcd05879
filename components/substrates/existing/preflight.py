"""Whether hosts can carry a lab: one report of every failed precondition on each of them, with nothing changed."""

import asyncio
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import asyncssh

from components.substrates import machine_firewall
from components.substrates.existing import entry, reach
from components.substrates.existing.plan import Host, Plan, numbered
from components.substrates.existing.reach import Credentials, HostError
from config.ports import BETWEEN_MACHINES, NODE_PORTS, PORTS, VXLAN

_PROBE = Path(__file__).with_name("probe.sh")
_MODULES = ("overlay", "br_netfilter", "nf_conntrack", "nf_tables")
# What a machine was seen to need, with room to breathe.
_MEMORY_MIB, _DISK_MIB = 400, 1500
_SKEW_SECONDS = 5.0
_CONTROLLERS = ("cpu", "memory", "pids")

# Programs whose configuration the lab would take over.
_OWN_PROGRAMS = {"load-balancer": ("haproxy", "keepalived"), "controller": ("nginx",)}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a host said of itself.

    Args:
        lines: word -> its values, in their order.
        skew: seconds that its clock is ahead.
    """

    lines: dict[str, list[str]]
    skew: float

    def all(self, word: str) -> list[str]:
        """Every value of a word."""
        return self.lines.get(word, [])

    def one(self, word: str) -> str:
        """The value of a word that comes once; nothing where it does not."""
        return next(iter(self.all(word)), "")


async def check(
    plan: Plan, credentials: Credentials, marks: Mapping[str, str], notes: dict[str, list[str]] | None = None
) -> dict[str, list[str]]:
    """Ask all hosts at once; machine name -> its failed preconditions.

    Args:
        plan: the lab.
        credentials: what opens the hosts.
        marks: machine name -> the mark (see `entry.mark`) of a host that is this machine already.
        notes: takes machine name -> preconditions that cannot be decided.
    """
    answers = await asyncio.gather(*(_ask(host, plan, credentials) for host in plan.hosts))
    found = {host.name: answer for host, answer in zip(plan.hosts, answers, strict=True)}
    seen = {name: answer for name, answer in found.items() if isinstance(answer, Findings)}
    closed = {line.partition(":")[0] for answer in seen.values() for line in answer.all("blocked")}
    taken = {name: answer.all("udp") for name, answer in seen.items()}
    problems = {
        host.name: list(_problems(host, plan, answer, marks.get(host.name, ""), taken, host.address in closed))
        if isinstance(answer := found[host.name], Findings)
        else [answer]
        for host in plan.hosts
    }
    for name, problem in _duplicate_ids(plan, seen):
        problems[name].append(problem)
    if notes is not None:
        for host in plan.hosts:
            if isinstance(answer := found[host.name], Findings):
                pods, others = _firewalled(host, plan)
                notes[host.name] = list(
                    machine_firewall.notes(answer.lines, pods, others, interfaces=_ways_to(others, answer))
                )
    return {name: those for name, those in problems.items() if those}


def report(plan: Plan, problems: dict[str, list[str]]) -> str:
    """What a person reads."""
    logins = {host.name: host.login for host in plan.hosts}
    parts = [f"{name} ({logins[name]})\n{numbered(those)}" for name, those in problems.items()]
    return "\n".join(["The preflight failed; nothing was changed.", *parts])


async def _ask(host: Host, plan: Plan, credentials: Credentials) -> Findings | str:
    peers = " ".join(
        f"{other.address}:{port}" for other in plan.hosts if other is not host for port in _tried(host, other, plan)
    )
    modules = " ".join((*_MODULES, *(plan.modules if "worker" in host.roles else ())))
    script = f"peers='{peers}'\nmodules='{modules}'\n{machine_firewall.SCRIPT.read_text()}{_PROBE.read_text()}"
    try:
        async with reach.connected(host, credentials) as connection:
            skew, said = await asyncio.gather(
                _skew(connection), reach.as_root(connection, host.login, script, quiet=True)
            )
    except HostError as reason:
        return str(reason)
    lines: dict[str, list[str]] = {}
    for line in said.splitlines():
        word, _, value = line.partition(" ")
        lines.setdefault(word, []).append(value)
    if "done" not in lines:
        return f"{host.login}: what it says about itself breaks off"
    return Findings(lines=lines, skew=skew)


async def _skew(connection: asyncssh.SSHClientConnection) -> float:
    before = time.time()
    said = await connection.run("date +%s.%N", check=False)
    after = time.time()
    try:
        # It may have been asked at any time between the two.
        there = float(str(said.stdout))
    except ValueError:
        return 0.0
    return there - after if there > after else min(0.0, there - before)


def _tried(host: Host, other: Host, plan: Plan) -> Iterator[str]:
    """The ports of another machine that a host connects to, as the probe takes them."""
    ports = {port for role in other.roles for port in BETWEEN_MACHINES[role]}
    if _carries_etcd(other, plan.hosts):
        ports |= set(BETWEEN_MACHINES["etcd"])
    yield from map(str, sorted(ports))
    if "vxlan" in plan.modules and _has_pods(host) and _has_pods(other):
        yield f"{VXLAN}/udp"


def _has_pods(host: Host) -> bool:
    return "worker" in host.roles


def _problems(
    host: Host, plan: Plan, found: Findings, expected: str, taken: Mapping[str, Sequence[str]], is_closed: bool
) -> Iterator[str]:
    mark = found.one("lab")
    if "lab" in found.lines and mark != expected and (not entry.is_mark(mark) or expected.startswith(mark)):
        yield (
            f"its mark /var/lib/hardway/lab, which names the lab of the host, is damaged: {mark[:80]!r}; if the "
            f"host is {host.name} of {plan.stack}, write it again there: echo '{expected}' >/var/lib/hardway/lab"
        )
        return
    if mark and mark != expected:
        other, *key, machine = mark.split()
        yield (
            f"it is part of the lab {other} already, as {machine}{f', whose key is {key[0]}' if key else ''}: destroy "
            f"that lab, or take the host out of it, from where it was made; if its state is lost, "
            f"`./hardway free -s {other} {machine}` frees the host; if it is this lab under another state, bring "
            'that state here (README, "Whose lab is it?")'
        )
        return
    if not mark and (parts := sorted(set(found.all("cluster")))):
        yield (
            f"it is part of another cluster already, by {', '.join(parts)}: take it out of that, "
            "or take another machine"
        )
        return
    yield from _machine(host, plan, found)
    yield from _network(host, plan, found, taken)
    pods, others = _firewalled(host, plan)
    yield from machine_firewall.problems(
        found.lines, pods, others, interfaces=_ways_to(others, found), is_closed=is_closed
    )
    if not mark:
        yield from _taken(host, plan, found)


def _firewalled(host: Host, plan: Plan) -> tuple[IPv4Network | None, list[IPv4Network]]:
    """Whose packets a host's firewall sees: the pods', where it forwards them, and those of the other machines."""
    pods = IPv4Network(plan.pods) if plan.pods and _has_pods(host) else None
    return pods, [IPv4Network(other.address) for other in plan.hosts if other is not host]


def _ways_to(others: Sequence[IPv4Network], found: Findings) -> list[str]:
    """The interfaces by which a host reaches the others."""
    routes = [_route(line) for line in found.all("route")]
    best = [max((way for way in routes if each.subnet_of(way[0])), key=_prefix, default=None) for each in others]
    return sorted({way[2] for way in best if way is not None})


def _prefix(way: tuple[IPv4Network, IPv4Address, str]) -> int:
    return way[0].prefixlen


def _machine(host: Host, plan: Plan, found: Findings) -> Iterator[str]:
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(found.one("arch"), found.one("arch"))
    if arch != host.arch:
        yield f"its architecture is {arch}, not {host.arch}: say arch={arch} in the machine database"
    for lack in found.all("lacks"):
        yield f"it lacks {lack}"
    container = found.one("container") not in ("", "none")
    if container != plan.shares_kernel:
        what = f"a container ({found.one('container')})" if container else "no container"
        yield f"it is {what}: set lab.machines.shares_kernel to {str(container).lower()}"
    for module in found.all("module"):
        yield f"its kernel has no module {module}: install the kernel's modules, or load it on the container's host"
    if "worker" in host.roles:
        version, _, controllers = found.one("cgroup").partition(" ")
        if version == "1" and not plan.shares_kernel:
            yield "it has cgroup v1, which kubelets refuse: boot it with systemd.unified_cgroup_hierarchy=1"
        if missing := [each for each in _CONTROLLERS if each not in controllers.split()]:
            yield f"its cgroups lack {', '.join(missing)}: enable them on the kernel's command line"
    for mounted in sorted(set(found.all("noexec"))):
        yield (
            f"{mounted} is mounted noexec, and programs of the lab are run from there: "
            f"`mount -o remount,exec {mounted}`, and without noexec in /etc/fstab"
        )
    memory, disk = int(found.one("memavailable")), int(found.one("disk"))
    if memory < _MEMORY_MIB:
        yield f"{memory} MiB of memory are free, {_MEMORY_MIB} MiB are wanted"
    if disk < _DISK_MIB:
        yield f"{disk} MiB of disk are free below /var/lib, {_DISK_MIB} MiB are wanted"
    swapped = int(found.one("swaptotal")) - int(found.one("swapfree"))
    if swapped > memory and not plan.shares_kernel:
        yield f"{swapped} MiB are swapped out, more than memory is free: swap cannot be turned off"
    if abs(found.skew) > _SKEW_SECONDS:
        relation = "ahead of" if found.skew > 0 else "behind"
        yield f"its clock is {abs(found.skew):.0f} s {relation} the Pulumi host's: set it"


def _network(host: Host, plan: Plan, found: Findings, taken: Mapping[str, Sequence[str]]) -> Iterator[str]:
    if host.address not in found.all("address"):
        yield f"none of its interfaces has the address {host.address}"
    for blocked in found.all("blocked"):
        address, _, port = blocked.partition(":")
        other = next(each for each in plan.hosts if each.address == address)
        if port == f"{VXLAN}/udp":
            # A device of the lab's, or of another's, takes what comes and says nothing.
            if f"{VXLAN:04X}" in taken.get(other.name, ()):
                continue
            port = f"{VXLAN} (UDP, VXLAN)"
        yield f"it does not reach {other.name} at {address}, port {port}: allow this connection in their firewalls"
    routes = [_route(line) for line in found.all("route")]
    for other in plan.hosts:
        if other is host or "worker" not in other.roles:
            continue
        ways = [route for route in routes if IPv4Address(other.address) in route[0]]
        way = max(ways, key=lambda route: route[0].prefixlen, default=None)
        if way is not None and way[1] != IPv4Address(0):
            yield (
                f"it reaches {other.name} by a router ({way[1]}): routes to pods need all machines on one network, "
                "because routers have no route to the pods"
            )
    interfaces = [line.split()[1] for line in found.all("mac")]
    if host.interface and host.interface not in interfaces:
        yield f"it has no interface {host.interface}, but {', '.join(interfaces)}: say interface=NAME in the database"


def _taken(host: Host, plan: Plan, found: Findings) -> Iterator[str]:
    """What others use already of what the lab is going to use."""
    if rows := _ports_taken(host, plan, found):
        table = [("PORT", "FOR", "TAKEN BY"), *rows]
        lines = (f"{port:<7} {what:<28} {holder}" for port, what, holder in table)
        yield "\n".join(["ports that the lab needs are in use:", *lines])
    if "worker" in host.roles:
        runtimes = [each for each in found.all("runs") if each in ("dockerd", "containerd", "crio")]
        if others := sorted({*runtimes, *found.all("keeps")}):
            yield f"it has a container runtime already: {', '.join(others)}"
    for role in host.roles:
        for program in _OWN_PROGRAMS.get(role, ()):
            if program in (*found.all("runs"), *found.all("enables")):
                yield f"{program} is in use there, and the lab would change its configuration"
    for line in found.all("route"):
        route, _, interface = _route(line)
        for key, range_ in (("pods", plan.pods), ("services", plan.services)):
            if route.prefixlen and range_ and route.overlaps(IPv4Network(range_)):
                yield f"{range_} (lab.network.{key}) overlaps {route}, a route by {interface}: take another range"


def _ports_taken(host: Host, plan: Plan, found: Findings) -> list[tuple[str, str, str]]:
    """Each port in use that the lab needs: its number, for what it is, and who has it."""
    wanted = {port: what for role in host.roles for port, what in PORTS[role].items()}
    if _carries_etcd(host, plan.hosts):
        wanted |= PORTS["etcd"]
    if "worker" in host.roles:
        wanted |= dict.fromkeys(NODE_PORTS, "a Service, as NodePort")
    holders: dict[int, set[str]] = {}
    for line in found.all("listens"):
        port, _, who = line.partition(" ")
        process, _, program = who.partition(" ")
        holders.setdefault(int(port, 16), set()).add(
            f"{program} (process {process})" if who else "no process that can be seen"
        )
    return [(str(port), wanted[port], ", ".join(sorted(holders[port]))) for port in sorted(holders.keys() & wanted)]


def _duplicate_ids(plan: Plan, found: dict[str, Findings]) -> Iterator[tuple[str, str]]:
    """Machines that cannot be told apart."""
    identities: Iterable[tuple[str, str]] = (("MAC address", "mac"),)
    if not plan.shares_kernel:
        identities = (*identities, ("product uuid", "uuid"))
    for what, word in identities:
        first: dict[str, str] = {}
        for name, answer in found.items():
            for value in _values(plan, name, answer, word):
                if value != "00:00:00:00:00:00" and first.setdefault(value, name) != name:
                    yield name, f"its {what} {value} is {first[value]}'s, too: it is a copy, give it its own"


def _values(plan: Plan, name: str, found: Findings, word: str) -> set[str]:
    """What tells a machine from others. Of its network interfaces that one which has its address: those behind a NAT
    of their own (Vagrant's first) have equal MAC addresses on all machines."""
    lines = [line.split() for line in found.all(word) if line]
    if word == "mac":
        (host,) = (each for each in plan.hosts if each.name == name)
        ways = [_route(line) for line in found.all("route")]
        direct = [way for way in ways if way[1] == IPv4Address(0) and IPv4Address(host.address) in way[0]]
        if direct:
            interface = max(direct, key=lambda way: way[0].prefixlen)[2]
            lines = [line for line in lines if line[1] == interface] or lines
    return {line[0] for line in lines}


def _carries_etcd(host: Host, hosts: Sequence[Host]) -> bool:
    controls = {"controller", "kubeadm-controller"} & set(host.roles)
    return "etcd" in host.roles or (bool(controls) and not any("etcd" in each.roles for each in hosts))


def _route(line: str) -> tuple[IPv4Network, IPv4Address, str]:
    """Range, gateway and interface of a line of /proc/net/route."""
    destination, mask, gateway, interface = line.split()
    prefix = bin(int(mask, 16)).count("1")
    return IPv4Network((_address(destination), prefix)), _address(gateway), interface


def _address(hexadecimal: str) -> IPv4Address:
    # In the byte order of the machine, which is little-endian on amd64 and arm64.
    return IPv4Address(struct.pack("<I", int(hexadecimal, 16)))


async def main(plan: Plan, credentials: Credentials, marks: Mapping[str, str]) -> int:
    """Print the report, if there is anything to report; exit status 1 then."""
    notes: dict[str, list[str]] = {}
    problems = await check(plan, credentials, marks, notes)
    for name, those in notes.items():
        for note in those:
            print(f"Note: {name}: {note}.")
    if problems:
        print(report(plan, problems), file=sys.stderr)
    return 1 if problems else 0
