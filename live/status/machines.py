"""Machines in a lab's status: whether each answers, and which units do not run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from live.cluster import Cluster
from live.probe import SNAPSHOT_SERVICE, Probe, expected_pods, expected_units


@dataclass(frozen=True, kw_only=True)
class MachineStatus:
    """One machine.

    Args:
        name, roles: as in the lab.
        reached: whether it answered by ssh.
        foreign: whether it did not because it was recreated from another checkout or another state.
        message: why it did not answer.
        units_down: units that should run and do not, units that have failed, and kubeadm's pods that do not run.
    """

    name: str
    roles: list[str]
    reached: bool
    foreign: bool
    message: str
    units_down: list[str]


def machine_status(cluster: Cluster, probe: Probe) -> MachineStatus:
    """A machine, by what it said: see `probe.unit_questions`."""
    down: list[str] = []
    if probe.reached:
        expected = expected_units(cluster, probe.machine)
        states = probe.answer("units").out.split()
        if probe.answer("units").status != 0 or len(states) != len(expected):
            down.append("systemd, which tells nothing of units,")
        down += [unit for unit, state in zip(expected, states, strict=False) if state != "active"]
        pods = zip(expected_pods(cluster, probe.machine), probe.answer("pods").out.split(), strict=False)
        down += [f"the pod {pod}" for pod, state in pods if state != "active"]
        if expected_pods(cluster, probe.machine) and probe.answer("pods").status != 0:
            down.append("containerd, which tells nothing of pods,")
        failed = [line.split()[0] for line in probe.answer("failed").out.splitlines() if line.split()]
        if "snapshot" in probe.answers:
            # It has a line of its own, which says why.
            failed = [unit for unit in failed if unit != SNAPSHOT_SERVICE]
        down += [unit for unit in failed if unit not in down]
    return MachineStatus(
        name=probe.machine.name,
        roles=sorted(probe.machine.roles),
        reached=probe.reached,
        foreign=probe.is_foreign,
        message=probe.missing,
        units_down=down,
    )


def machine_problems(machines: Sequence[MachineStatus]) -> Iterator[str]:
    """What is wrong with the machines."""
    for machine in machines:
        if machine.foreign:
            yield (
                f"{machine.name} was recreated from another checkout or another state: its SSH host key is not the one "
                "that this lab has pinned. Work where it was recreated; or run `./hardway destroy` there, and "
                "`./hardway up` here"
            )
        elif not machine.reached:
            yield f"{machine.name} does not answer: {machine.message}"
        for unit in machine.units_down:
            yield f"{unit} on {machine.name} does not run"
