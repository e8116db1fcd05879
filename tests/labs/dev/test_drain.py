"""A worker that is to go and cannot: by the verbs that `up` uses, on the controller that looks after the Nodes."""

from collections.abc import Iterator

import pytest

from lab.cluster import Cluster
from lab.workload import NAMESPACE, WEB, Workload

BUDGET = "all-of-them"


@pytest.fixture
def budget(cluster: Cluster, workload: Workload) -> Iterator[str]:
    """A PodDisruptionBudget that lets no pod of the web servers go."""
    cluster.apply(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": BUDGET, "namespace": NAMESPACE},
            "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": WEB}}},
        }
    )
    yield BUDGET
    cluster.kubectl("delete", "poddisruptionbudget", BUDGET, "--namespace", NAMESPACE)


def test_drain_that_cannot_finish_names_the_pods_and_is_reverted(
    cluster: Cluster, workload: Workload, budget: str
) -> None:
    """What it would catch: a budget that is overridden, a worker that is left cordoned, a time-out without a reason."""
    stays, goes = (worker.name for worker in cluster.workers)
    held = next(pod.name for pod in workload.web if pod.node == goes)
    verbs = " && ".join(f". /usr/local/lib/hardway/{library}.sh" for library in ("step", "nodes"))
    done = cluster.try_ssh(cluster.controller.name, f"{verbs}; DRAIN_SECONDS=3; only_nodes {stays}")
    assert done.returncode == 1
    assert f"{goes} cannot be drained within 3 s" in done.stderr
    expected = f"pod {NAMESPACE}/{held} on {goes} is held by the PodDisruptionBudget {NAMESPACE}/{budget}"
    assert expected in done.stderr
    assert done.stderr.count("is held by") == 1
    node = cluster.get("node", goes)
    assert "unschedulable" not in node["spec"]
    assert held in [pod.name for pod in workload.web]


def test_nodes_that_the_lab_did_not_make_are_left_alone(cluster: Cluster) -> None:
    """What it would catch: an `up` that drains and deletes a Node of another owner."""
    names = [worker.name for worker in cluster.workers]
    cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "foreign"}})
    try:
        verbs = " && ".join(f". /usr/local/lib/hardway/{library}.sh" for library in ("step", "nodes"))
        cluster.ssh(cluster.controller.name, f"{verbs}; only_nodes {' '.join(names)}")
        there = {item["metadata"]["name"] for item in cluster.get("nodes")["items"]}
        assert there == {*names, "foreign"}
    finally:
        cluster.kubectl("delete", "node", "foreign")
