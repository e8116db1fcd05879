"""Whether a lab answers and runs, at the end of `./hardway up`: Pulumi asks no machine if nothing has changed.

These are the checks of `./hardway status` without which the lab does not work: each machine answers, the units of its
roles run, the API is ready, and every Node is Ready.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from live import last_questions
from live.cluster import Cluster, LiveMachine
from live.probe import probe, unit_questions
from live.status.api import node_problems, node_status
from live.status.machines import MachineStatus, machine_problems, machine_status
from toolchain.errors import ToolchainError

# An API server that has just been restarted, or a balancer that has just taken over, is waited for.
_SECONDS = 15
# On a busy host one question may take all of that without an answer.
_TRIES = 4
_PAUSE_SECONDS = 0.5


def check(cluster: Cluster) -> None:
    """See that every machine and the API answer, that all units run, and that all Nodes are Ready.

    Args:
        cluster: the lab; its files are there (`access.write`).

    Raises:
        ToolchainError: one line with what does not answer or run, and what to run.
    """
    deadline = time.monotonic() + cluster.allowed(_SECONDS)
    for tries in count(1):
        silent, api, found = _found(cluster)
        if not (silent or api or found):
            return
        # A machine that does not answer is not about to.
        if silent or (tries >= _TRIES and time.monotonic() >= deadline):
            break
        time.sleep(_PAUSE_SECONDS)
    missing = [f"{machine.name} ({machine.message})" for machine in silent]
    missing += [f"the API at {cluster.endpoint} ({api})"] if api else []
    how = "does not answer" if missing else "is not healthy"
    names = [machine.name for machine in silent]
    raise ToolchainError(
        f"The lab {cluster.stack.name} {how}: {'; '.join([*missing, *found])}. {_advice(cluster, names)}"
    )


def problems(cluster: Cluster) -> list[str]:
    """What does not answer or run, asked once."""
    silent, api, found = _found(cluster)
    return [
        *(f"{machine.name} does not answer ({machine.message})" for machine in silent),
        *([f"the API at {cluster.endpoint} does not answer ({api})"] if api else []),
        *found,
    ]


def _found(cluster: Cluster) -> tuple[list[MachineStatus], str, list[str]]:
    """The machines that do not answer, why the API does not, and what else is wrong."""
    with ThreadPoolExecutor(max_workers=len(cluster.machines) + 1) as threads:
        asked = threads.submit(_api, cluster) if cluster.has("load-balancer") else None
        machines = list(threads.map(lambda machine: _machine(cluster, machine), cluster.machines))
        api, of_nodes = asked.result() if asked else ("", [])
        silent = [machine for machine in machines if not machine.reached]
        problems = list(machine_problems([machine for machine in machines if machine.reached]))
        return silent, api, [*problems, *of_nodes]


def _machine(cluster: Cluster, machine: LiveMachine) -> MachineStatus:
    return machine_status(cluster, probe(cluster, machine, unit_questions(cluster, machine)))


def _api(cluster: Cluster) -> tuple[str, list[str]]:
    """Why the API does not answer, and what is wrong with the lab's Nodes."""
    names = [each.name for each in cluster.nodes] if cluster.has("workers") else []
    api, items, why = last_questions.ask_api(cluster, names)
    # An API that does not answer lists no Nodes.
    if api or not cluster.has("workers"):
        return api, []
    if why:
        return "", [f"the API does not list the Nodes: {why}"]
    return "", list(node_problems(cluster, [node_status(item) for item in items]))


def _advice(cluster: Cluster, silent: Sequence[str]) -> str:
    at = f"-s {cluster.stack.name}"
    if not silent:
        return f"Run `./hardway status {at}` for details."
    if cluster.stack.traits.existing_hosts:
        return f"Start {' and '.join(silent)}, then run `./hardway status {at}`."
    return (
        f"Start what has stopped. Recreate machines that are gone: `./hardway replace {at} {' '.join(silent)}`. "
        f"Run `./hardway status {at}` for details."
    )
