"""Nodes in the API: the pod range and label of a worker, its drain, and the removal of workers."""

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pulumi

from components.component import Component
from components.machine import Machine
from components.step import File, Step, StepArgs
from config.machine_paths import KUBECTL, LIBRARY

_NODES = str(Path(LIBRARY).with_name("nodes.sh"))
# What tells the Nodes of the lab's own workers from other Nodes that a user may have added; in nodes.sh, too.
_LABEL = "hardway/worker"


class RemovedWorkers(Component):
    """Drains the workers that were removed from the lab, and deletes their Nodes.

    This comes before the routes to their pods, and their machines, are removed. Its type token is `FormerWorkers`:
    state of running labs has it.

    Raises, at `up`: the pods that cannot be evicted, and the PodDisruptionBudgets that prevent it.
    """

    def __init__(
        self, name: str, controller: Machine, workers: Sequence[Machine], opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("FormerWorkers", name, opts)
        Step(
            name,
            StepArgs(
                machine=controller,
                name="former-workers",
                files=[File(path=_NODES, content=Path(__file__).with_name("nodes.sh").read_text())],
                run=f". {_NODES}\nonly_nodes {' '.join(worker.name for worker in workers)}",
            ),
            self.child(),
        )
        self.register_outputs({})


def node_in_api(machine: Machine) -> str:
    """The shell lines that wait for the Node and make it the lab's: its pod range, its label; run on a controller."""
    cidr = str(machine.spec.pod_cidr)
    patch = json.dumps({"metadata": {"labels": {_LABEL: ""}}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
    node = f"node/{machine.name}"
    return "\n".join(
        [
            f"wait_for 90 '{machine.name} registering' {quote(f'{KUBECTL} patch {node} -p {quote(patch)}')}",
            f"{KUBECTL} wait --for=condition=Ready {node} --timeout=$((90 * TIMEOUT_FACTOR))s >/dev/null ||",
            f'  die "{machine.name} is not Ready: $({KUBECTL} get {node} '
            '-o jsonpath=\'{.status.conditions[?(@.type=="Ready")].message}\')"',
        ]
    )


def node_out_of_api(machine: Machine) -> str:
    """The shell lines that end a Node's pods while their kubelet is there, and delete the Node; run on a controller.

    A worker that leaves a lab has been drained before (see RemovedWorkers); its kubelet may have connected to the API
    again since. When the whole lab is destroyed, perhaps no API answers, and none is needed.
    """
    seconds = 60 * machine.timeout_factor
    kubectl, node = f"{KUBECTL} --request-timeout={seconds}s", f"node/{machine.name}"
    return "\n".join(
        [
            "{",
            f"  {kubectl} cordon {node}",
            f"  {kubectl} delete pods --all-namespaces --field-selector spec.nodeName={machine.name} "
            f"--grace-period=5 --timeout={seconds}s",
            f"  {kubectl} delete --ignore-not-found {node}",
            "} >/dev/null 2>&1 || true",
        ]
    )
