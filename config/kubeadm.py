"""What `bootstrap: kubeadm` may be told, and what of a lab it cannot be."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Literal

from config.machines import MachineSpec, Role
from config.problems import Problem
from config.values import Settings


class KubeadmSettings(Settings):
    """What kubeadm is to take, and from where."""

    authorities: Literal["stack", "kubeadm", "external"] = "stack"
    """Who makes the CAs: the stack, whose PKI kubeadm finds in its place, or kubeadm itself. With `external` the stack
    issues every certificate, too, and no machine has a CA's key: kubeadm's external CA mode."""
    packages: Literal["artifacts", "apt"] = "artifacts"
    """Where kubelet, kubeadm and kubectl come from: the artifact source, or upstream's Debian packages."""


def with_pods(
    machines: Sequence[MachineSpec], pods: IPv4Network, node_prefix: int
) -> tuple[tuple[MachineSpec, ...], list[Problem]]:
    """The machines with pod ranges for the controllers, too, which are Nodes here; and what cannot be placed.

    From the end of `pods`, so that workers have the ranges that they have in every lab.
    """
    ranges = 2 ** max(0, node_prefix - pods.prefixlen)
    controllers = [machine.name for machine in machines if Role.CONTROLLER in machine.roles]
    given: list[MachineSpec] = []
    problems: list[Problem] = []
    for machine in machines:
        if Role.CONTROLLER not in machine.roles:
            given.append(machine)
            continue
        number = ranges - 1 - controllers.index(machine.name)
        if number < 0 or node_prefix < pods.prefixlen:
            problems.append(
                Problem(
                    (machine.key, "lab.network.pods", "lab.network.node_prefix", "lab.bootstrap"),
                    f"{pods} has no /{node_prefix} for {machine.name}, which is a Node where kubeadm made it",
                    "take a larger range in lab.network.pods or a greater lab.network.node_prefix",
                )
            )
            given.append(machine)
        else:
            first = int(pods.network_address) + number * 2 ** (32 - node_prefix)
            given.append(replace(machine, pod_cidr=IPv4Network((first, node_prefix))))
    return tuple(given), problems
