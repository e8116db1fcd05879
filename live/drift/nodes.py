"""The Nodes: compared with what the lab sets there; those of kubeadm are repaired here, through the API.

In the hard way the step that registers a Node is run again. The step that admits machines to kubeadm's cluster is not:
it would have the cluster forget a machine whose label differs.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.machines import Role
from live.cluster import Cluster
from live.drift.compare import API, Difference
from live.drift.recorded import Recorded

_KUBELET = "kubelet.service"
_SECONDS = 30
_REGISTERS_IN = 90
_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_MARKED: Mapping[str, Any] = {
    "metadata": {"labels": {_CONTROL_PLANE: ""}},
    "spec": {"taints": [{"key": _CONTROL_PLANE, "effect": "NoSchedule"}]},
}
"""What kubeadm marks the Nodes of controllers with."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """What the Node of a machine has to have.

    Args:
        patches: each as `kubectl patch` takes it; of a list, what has to be among its elements.
        step: the step that repairs it; empty where none does.
    """

    patches: Sequence[Mapping[str, Any]]
    step: str


def expected(cluster: Cluster, recorded: Mapping[str, Recorded]) -> dict[str, Node]:
    """The lab's Nodes by name."""
    marked = {each.name for each in cluster.with_role(Role.CONTROLLER)} if cluster.by_kubeadm else set()
    return {
        name: Node(
            patches=[json.loads(setting.value), *([_MARKED] if name in marked else [])],
            step=setting.step,
        )
        for machine in recorded.values()
        for name, setting in machine.nodes.items()
    }


def differences(nodes: Mapping[str, Node], items: Iterable[Mapping[str, Any]]) -> Iterator[Difference]:
    """The Nodes that are not as expected.

    Args:
        nodes: as expected.
        items: what the API has.
    """
    there = {item["metadata"]["name"]: item for item in items}
    for name, node in nodes.items():
        if name not in there:
            yield Difference(machine=API, kind="node", name=name, problems={"missing": "missing"}, step=node.step)
            continue
        problems = [each for patch in node.patches for each in _lacking(patch, there[name], "")]
        if problems:
            yield Difference(
                machine=API, kind="node", name=name, problems={"value": "; ".join(problems)}, step=node.step
            )


def _lacking(patch: object, there: object, path: str) -> Iterator[str]:
    """Where an object is not as a patch would make it."""
    if isinstance(patch, dict):
        known = there if isinstance(there, dict) else {}
        for key, value in patch.items():
            yield from _lacking(value, known.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(patch, list) and path == "spec.taints":
        # Others may set further ones.
        for value in patch:
            if not any(not list(_lacking(value, each, "")) for each in there or ()):  # type: ignore[attr-defined]
                yield f"{path} has no {value['key']}:{value['effect']}"
    elif patch != there:
        yield f"{path} is {json.dumps(there)}, expected {json.dumps(patch)}"


def repair(cluster: Cluster, nodes: Mapping[str, Node], wrong: Iterable[Difference]) -> list[str]:
    """Repair the Nodes that no step repairs, and say so; return a line for each that failed."""
    failed = []
    for difference in wrong:
        name = difference.name
        if difference.kind != "node" or difference.step or name not in nodes:
            continue
        try:
            why = next(filter(None, _repair(cluster, name, nodes[name], difference)), "")
        except subprocess.TimeoutExpired as error:
            why = f"not done within {error.timeout:.0f} s"
        if why:
            failed.append(f"node {name} was not repaired: {why}")
        else:
            restarted = f"; restarted {_KUBELET} on {name}" if "missing" in difference.problems else ""
            print(f"{API}: node {name}{restarted}", flush=True)
    return failed


def _repair(cluster: Cluster, name: str, node: Node, difference: Difference) -> Iterator[str]:
    """Why each command failed; empty where it did not."""
    if "missing" in difference.problems:
        # A kubelet registers its Node when it starts.
        command = f"systemctl restart {_KUBELET}"
        yield _failure(cluster.change(cluster.machine(name), command, command="./hardway repair"))
        deadline = cluster.allowed(_REGISTERS_IN)
        arguments = ("wait", "--for=create", f"node/{name}", f"--timeout={deadline:.0f}s")
        yield _failure(cluster.kubectl(*arguments, seconds=_REGISTERS_IN + _SECONDS))
    for patch in node.patches:
        taints = patch.get("spec", {}).get("taints", [])
        rest = {**patch, "spec": {key: value for key, value in patch.get("spec", {}).items() if key != "taints"}}
        yield _failure(cluster.kubectl("patch", f"node/{name}", "-p", json.dumps(rest), seconds=_SECONDS))
        for taint in taints:
            # A patch would replace those of others.
            words = ("taint", "nodes", name, f"{taint['key']}:{taint['effect']}", "--overwrite")
            yield _failure(cluster.kubectl(*words, seconds=_SECONDS))


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
