"""Which versions the programs on a lab's machines run in, asked of the programs themselves."""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from config import health
from config.machines import Role
from live.cluster import Cluster, LiveMachine
from live.probe import probe

UNKNOWN = "unknown"
# Of a program that runs as a unit: the file that it was started from, which may not be the one on the path any more.
_UNIT = '"/proc/$(systemctl show --property MainPID --value {0}.service)/exe" --version 2>&1'
# Of a program in a pod; the kernel keeps 15 characters of a process's name.
_POD = '"/proc/$(pgrep -o -x {0:.15})/exe" --version 2>&1'
_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_WORKER = ("kubelet", "kube-proxy")


@dataclass(frozen=True, kw_only=True)
class Running:
    """A program on a machine.

    Args:
        machine: its name.
        product: what it is part of.
        program: its name.
        version: the one that runs; UNKNOWN where the machine or the program does not say.
        is_unit: whether another version of it restarts a unit.
    """

    machine: str
    product: str
    program: str
    version: str
    is_unit: bool = True


def ask(cluster: Cluster) -> list[Running]:
    """Ask all machines side by side; in the order in which an upgrade changes them."""
    with ThreadPoolExecutor(max_workers=len(cluster.machines)) as threads:
        found = list(threads.map(lambda machine: list(_of_machine(cluster, machine)), cluster.machines))
    programs = [each for of_machine in found for each in of_machine]
    order = ("etcd", *_CONTROL_PLANE, *_WORKER)
    return sorted(programs, key=lambda each: order.index(each.program) if each.program in order else len(order))


def _of_machine(cluster: Cluster, machine: LiveMachine) -> Iterator[Running]:
    asked = dict(_questions(cluster, machine))
    if not asked:
        return
    said = probe(cluster, machine, {program: command for (_, program, _), command in asked.items()})
    for product, program, is_unit in asked:
        answer = said.answer(program)
        match = re.search(r"\d+\.\d+\.\d+[^\s,]*", answer.out) if answer.status == 0 else None
        version = match[0] if match else UNKNOWN
        yield Running(machine=machine.name, product=product, program=program, version=version, is_unit=is_unit)


def _questions(cluster: Cluster, machine: LiveMachine) -> Iterator[tuple[tuple[str, str, bool], str]]:
    """Product, program and whether it is a unit -> the command that prints its version."""
    # Where kubeadm made the cluster, all but the kubelet are pods.
    own = _POD if cluster.by_kubeadm else _UNIT
    if machine in cluster.etcd_members:
        yield ("etcd", "etcd", True), own.format("etcd")
    if Role.CONTROLLER in machine.roles:
        for program in _CONTROL_PLANE:
            yield ("kubernetes", program, True), own.format(program)
    if machine in cluster.nodes:
        yield ("kubernetes", "kubelet", True), _UNIT.format("kubelet")
        yield ("kubernetes", "kube-proxy", True), own.format("kube-proxy")
        yield ("containerd", "containerd", True), _UNIT.format("containerd")
        yield ("runc", "runc", False), "runc --version"
        yield ("cni-plugins", "CNI plugins", False), "/opt/cni/bin/loopback </dev/null 2>&1 || true"


def coredns(cluster: Cluster) -> str:
    """The version of the cluster's DNS, as its image says: v1.14.7; UNKNOWN where the API does not say."""
    said = cluster.kubectl(
        *("get", "deployment", health.DNS, "--namespace", "kube-system", "--request-timeout=10s"),
        *("--output", "jsonpath={.spec.template.spec.containers[0].image}"),
    )
    return said.stdout.rpartition(":")[2] if said.returncode == 0 and ":" in said.stdout else UNKNOWN


def by_product(running: Sequence[Running]) -> Mapping[str, set[str]]:
    """Product -> the versions of it that run."""
    found: dict[str, set[str]] = {}
    for each in running:
        if each.version != UNKNOWN:
            found.setdefault(each.product, set()).add(each.version)
    return found
