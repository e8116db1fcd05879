"""Scripts of a lesson on the machines that they are for."""

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shlex import quote
from string import Template
from urllib.parse import urlsplit

from config.machines import Role
from config.versions import pins
from live.cluster import Cluster, LiveMachine
from live.lessons.lesson import Action, Condition, Lesson
from toolchain.errors import ToolchainError

_PRELUDE = Path(__file__).with_name("prelude.sh")
_CHANGE_SECONDS, _CHECK_SECONDS = 120, 15
_REPORTED_LINES = 5


def machines_of(cluster: Cluster, place: str) -> list[LiveMachine]:
    """The machines that a place stands for; none where the lab has no such machine."""
    controllers, workers = cluster.with_role(Role.CONTROLLER), cluster.with_role(Role.WORKER)
    return {
        "controller": controllers[:1],
        "controllers": controllers,
        "etcd": cluster.etcd_members,
        "worker": workers[:1],
        "other-worker": workers[1:2],
        "workers": workers,
        "load-balancers": cluster.with_role(Role.LOAD_BALANCER),
    }[place]


def lacking(cluster: Cluster, lesson: Lesson) -> list[str]:
    """What the lesson needs and the lab does not have, in words."""
    network = cluster.stack.network
    have = {
        "two-workers": (len(cluster.with_role(Role.WORKER)) > 1, "a second worker"),
        "load-balancer": (bool(cluster.with_role(Role.LOAD_BALANCER)), "a load balancer"),
        "routes": (network.pod_network == "routes", "a pod network of routes (network.pod_network)"),
    }
    return [have[need][1] for need in lesson.needs if not have[need][0]]


def variables(cluster: Cluster) -> dict[str, str]:
    """Names and addresses of the lab, for scripts and texts."""
    network = cluster.stack.network
    found = {
        "pods": str(network.pods),
        "services": str(network.services),
        "dns": str(network.dns_service),
        "kubernetes": str(network.services[1]),
        "domain": network.cluster_domain,
        "endpoint": cluster.endpoint,
        "endpoint_address": urlsplit(cluster.endpoint).hostname or "",
        "proxy_mode": network.kube_proxy_mode,
        "pause": pins().images["pause"].reference,
        "coredns": pins().images["coredns"].reference,
    }
    for place in ("controller", "worker", "other-worker"):
        key = place.replace("-", "_")
        for machine in machines_of(cluster, place):
            found |= {key: machine.name, f"{key}_address": machine.address, f"{key}_pods": machine.pod_cidr or ""}
    return found


def shown(cluster: Cluster, text: str) -> str:
    """A text for a person: with the lab's names instead of variables."""
    return Template(text).safe_substitute(variables(cluster)).strip()


def run(cluster: Cluster, actions: Sequence[Action], *, command: str) -> None:
    """Run scripts one after the other, each on all its machines at once, with the machine's lock.

    Args:
        cluster: the lab.
        actions: what is run.
        command: what it is part of, for those who wait for the lock.

    Raises:
        ToolchainError: one failed; those after it were not run.
    """
    for action in actions:
        machines = machines_of(cluster, action.where)
        script = _script(cluster, action)

        def changed(machine: LiveMachine, script: str = script) -> str:
            try:
                done = cluster.change(machine, script, command=command, seconds=_CHANGE_SECONDS)
            except subprocess.TimeoutExpired as error:
                return f"{machine.name}: not done within {error.timeout:.0f} s"
            said = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-_REPORTED_LINES:]
            return f"{machine.name}: {'; '.join(said)}" if done.returncode else ""

        with ThreadPoolExecutor(max_workers=max(len(machines), 1)) as threads:
            if failed := [why for why in threads.map(changed, machines) if why]:
                raise ToolchainError("A script of the lesson failed on " + "; on ".join(failed))


def failing(cluster: Cluster, conditions: Sequence[Condition]) -> list[str]:
    """The conditions that do not hold, in words; all are asked at the same time, and nothing is changed."""
    asked = [(each, machine) for each in conditions for machine in machines_of(cluster, each.where)]

    def holds(question: tuple[Condition, LiveMachine]) -> bool:
        condition, machine = question
        try:
            return cluster.ssh(machine, _script(cluster, condition), seconds=_CHECK_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    with ThreadPoolExecutor(max_workers=len(asked)) as threads:
        answers = list(threads.map(holds, asked))
    wrong = [shown(cluster, each.says) for (each, _), held in zip(asked, answers, strict=True) if not held]
    return list(dict.fromkeys(wrong))


def _script(cluster: Cluster, action: Action) -> str:
    lines = [f"{key}={quote(value)}" for key, value in variables(cluster).items()]
    return "\n".join(
        ["set -euo pipefail", f"timeout_factor={cluster.timeout_factor}", *lines, _PRELUDE.read_text(), action.run]
    )
