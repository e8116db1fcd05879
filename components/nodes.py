"""Nodes in the API: the pod range and label of a worker, its drain, and the removal of workers."""

import json
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

import pulumi

from components.component import Component
from components.machine import Machine
from components.step import File, Step, StepArgs
from config.machine_paths import AWAIT_API, KUBECTL, LIBRARY

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
                run=f". {_NODES}\n{AWAIT_API}\nonly_nodes {' '.join(worker.name for worker in workers)}",
            ),
            self.child(),
        )
        self.register_outputs({})


class NodeRegistration(Component):
    """A worker's Node: it gets the lab's pod range and label once it has registered, and is Ready then.

    Comes after the kubelet and the pods' network, and is removed before them: without a network no pod can end.
    """

    def __init__(
        self,
        name: str,
        worker: Machine,
        controller: Machine,
        opts: pulumi.ResourceOptions | None = None,
        *,
        was_child_of: pulumi.Resource | None = None,
    ) -> None:
        """Register the Node of a worker.

        Args:
            name: of the component and its step.
            worker: whose Node.
            controller: whose kubectl does it.
            opts: of the component.
            was_child_of: what the step belonged to in labs of earlier versions.
        """
        super().__init__("NodeRegistration", name, opts)
        aliases = pulumi.ResourceOptions(aliases=[pulumi.Alias(parent=was_child_of)] if was_child_of else None)
        Step(
            name,
            StepArgs(
                machine=controller,
                name=f"node-{worker.name}",
                # A recreated worker has to become Ready again.
                run=pulumi.Output.format("# {0}\n{1}", worker.identity, _register(worker)),
                undo=_remove(worker),
            ),
            pulumi.ResourceOptions.merge(self.child(), aliases),
        )
        self.register_outputs({})


def _register(machine: Machine) -> str:
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


def _remove(machine: Machine) -> str:
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
