"""`./hardway drift` on a lab of kubeadm: its machines, and Nodes that are not as the lab and kubeadm set them."""

import pytest

from lab.cluster import Cluster
from lab.commands import toolchain
from lab.session import Show
from labs.dev.test_drift import check_round, named
from live.drift import recorded, run
from toolchain import stack

_CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
_SEED, _ROUNDS, _NUMBER = 300, 2, 12
pytestmark = pytest.mark.long


def test_nodes_are_named_and_repaired(cluster: Cluster, show: Show) -> None:
    """A report of what nobody changed; a Node that stays away; a taint of the user's that is removed."""
    name = cluster.settings.name
    assert named(name) == (run.NONE, set())
    _, controller, *_ = (each.name for each in cluster.controllers)
    unlabelled, missing = (each.name for each in cluster.workers[:2])
    cluster.kubectl("label", "node", unlabelled, "hardway/machine-", "hardway/worker-")
    cluster.kubectl("taint", "nodes", controller, f"{_CONTROL_PLANE}-")
    cluster.kubectl("taint", "nodes", controller, "own=1:PreferNoSchedule")
    cluster.kubectl("delete", "node", missing)
    assert named(name) == (run.FOUND, {("API", "node", each) for each in (controller, unlabelled, missing)})
    show("drift: repair of three Nodes")
    repaired = toolchain("repair", stack=name)
    assert repaired.code == run.NONE, repaired.output
    assert f"API: node {missing}; restarted kubelet.service on {missing}\n" in repaired.output
    taints = cluster.get("node", controller)["spec"]["taints"]
    assert {(each["key"], each["effect"]) for each in taints} == {
        (_CONTROL_PLANE, "NoSchedule"),
        ("own", "PreferNoSchedule"),
    }
    cluster.kubectl("taint", "nodes", controller, "own-")
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{missing}", "--timeout=60s")


def test_changes_are_found_by_name_and_put_back(cluster: Cluster, show: Show) -> None:
    """A change of a machine that kubeadm made, which is not named; a repair that restarts more than it must."""
    name = cluster.settings.name
    machines = recorded.read(recorded.steps(run.state_of(stack.read(name))))
    for each in range(_ROUNDS):
        show(f"drift: {_NUMBER} changes, seed {_SEED + each}")
        check_round(cluster, machines, _SEED + each, _NUMBER)
    assert named(name) == (run.NONE, set())
