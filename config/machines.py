"""Which machines a lab has: their names, roles and addresses, from counts or from a list."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import Discriminator, StringConstraints, Tag

from config.problems import Problem
from config.values import Address, AddressRange, Settings, WholeNumber


class Role(StrEnum):
    """What a machine is for."""

    CONTROLLER = "controller"
    ETCD = "etcd"
    """A dedicated etcd member; where there is none, the controllers carry the members."""
    WORKER = "worker"
    LOAD_BALANCER = "load-balancer"


MachineName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=40)]


class MachineSettings(Settings):
    """One machine by name, where a count would not do."""

    name: MachineName
    address: Address | None = None
    """Where it is not set, the name's number gives it: worker-2 is the third worker."""
    pod_cidr: AddressRange | None = None
    """Workers only: the range of the pods on it; by the name's number, too."""


Machines = Annotated[
    Annotated[WholeNumber, Tag("count")] | Annotated[tuple[MachineSettings, ...], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "count"),
]
"""All machines of one role: how many, or which."""


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """One machine, before it exists."""

    name: str
    fqdn: str
    roles: frozenset[Role]
    address: IPv4Address
    pod_cidr: IPv4Network | None
    key: str
    """Where in the configuration it comes from."""


# The labs' own numbering: the balancer first, then ten controllers (five, and five dedicated etcd members, where there
# are those), then as many workers as the range holds.
_FIRST_ADDRESS = {Role.LOAD_BALANCER: 5, Role.CONTROLLER: 10, Role.ETCD: 15, Role.WORKER: 20}

MOST = 5000
"""Machines that Kubernetes carries: https://kubernetes.io/docs/setup/best-practices/cluster-large/"""

MOST_MEMBERS = 7
"""Members that an etcd cluster should have: https://etcd.io/docs/v3.6/faq/#what-is-maximum-cluster-size"""


def plan_machines(
    *,
    stack: str,
    controllers: int | Sequence[MachineSettings],
    etcd_members: int | Sequence[MachineSettings],
    workers: int | Sequence[MachineSettings],
    load_balancers: int | Sequence[MachineSettings],
    nodes: IPv4Network,
    pods: IPv4Network,
    node_prefix: int,
    domain: str,
) -> tuple[tuple[MachineSpec, ...], list[Problem]]:
    """Give every machine a name, an address and, to workers, a pod range; say which could not be placed.

    `etcd_members` are machines of their own: none where the controllers carry the members.
    """
    specs: list[MachineSpec] = []
    problems: list[Problem] = []
    groups = (
        (Role.LOAD_BALANCER, "load_balancers", load_balancers),
        (Role.CONTROLLER, "controllers", controllers),
        (Role.ETCD, "etcd_members", etcd_members),
        (Role.WORKER, "workers", workers),
    )
    first = {role: offset for role, offset in _FIRST_ADDRESS.items() if role is not Role.ETCD or etcd_members}
    for role, key, wanted in groups:
        counted = isinstance(wanted, int)
        for position, machine in enumerate(_named(role, wanted) if isinstance(wanted, int) else wanted):
            at = f"lab.{key}" if counted else f"lab.{key}[{position}]"
            address = machine.address or _address(nodes, first, role, machine.name)
            pod_cidr = machine.pod_cidr or _pod_cidr(pods, node_prefix, role, machine.name)
            instead = "ask for fewer" if counted else f"name it {role}-N, give it its own"
            if address is None:
                problem = Problem(
                    (at, "lab.network.nodes"),
                    f"{nodes} has no address for {machine.name}",
                    f"{instead}, or take a larger range in lab.network.nodes",
                )
            elif role is Role.WORKER and pod_cidr is None:
                problem = Problem(
                    (at, "lab.network.pods", "lab.network.node_prefix"),
                    f"{pods} has no /{node_prefix} for {machine.name}",
                    f"{instead}, or take a larger range in lab.network.pods or a greater lab.network.node_prefix",
                )
            elif role is not Role.WORKER and pod_cidr is not None:
                problem = Problem((f"{at}.pod_cidr",), f"{machine.name} is no worker: it has no pods", "leave it out")
            else:
                specs.append(
                    MachineSpec(
                        name=machine.name,
                        fqdn=f"{machine.name}.{stack}.{domain}",
                        roles=frozenset({role}),
                        address=address,
                        pod_cidr=pod_cidr,
                        key=at,
                    )
                )
                continue
            problems.append(problem)
            if counted:
                # The next would have the same problem.
                break
    return tuple(specs), problems


def _named(role: Role, count: int) -> list[MachineSettings]:
    return [MachineSettings(name=f"{role}-{number}") for number in range(min(count, MOST))]


def _number(name: str) -> int | None:
    match = re.search(r"-(\d{1,5})$", name)
    return int(match[1]) if match else None


def _address(nodes: IPv4Network, first: Mapping[Role, int], role: Role, name: str) -> IPv4Address | None:
    number = _number(name)
    if number is None:
        return None
    offset = first[role] + number
    later = min((other for other in first.values() if other > first[role]), default=None)
    last = nodes.num_addresses - 2 if later is None else min(later - 1, nodes.num_addresses - 2)
    return nodes[offset] if offset <= last else None


def _pod_cidr(pods: IPv4Network, prefix: int, role: Role, name: str) -> IPv4Network | None:
    number = _number(name)
    if role is not Role.WORKER or number is None or prefix < pods.prefixlen:
        return None
    if number >= 2 ** (prefix - pods.prefixlen):
        return None
    return IPv4Network((int(pods.network_address) + number * 2 ** (32 - prefix), prefix))
