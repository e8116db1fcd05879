"""`./hardway trace pod`: stages with evidence that is the cluster's; nothing of it is left, also when it is killed."""

import json

import pytest

from config import lab as config
from lab.cluster import Cluster
from lab.commands import Started, toolchain
from lab.polling import eventually
from lab.traces import check_every_stage, check_nothing_is_left, check_trace
from live.trace.pod_objects import SELECTOR


def test_every_stage_of_a_pod_has_evidence_that_matches_the_cluster(cluster: Cluster, settings: config.Lab) -> None:
    """Evidence of another Pod, invented times, or a component whose log has another form now."""
    check_every_stage(cluster, settings)


def test_a_pod_that_exists_is_not_changed(cluster: Cluster, settings: config.Lab) -> None:
    """A trace that restarts, labels or deletes what it was to follow."""
    pods = cluster.get("pods", "-n", "kube-system", "-l", "k8s-app=kube-dns")["items"]
    before = pods[0]["metadata"]
    ran = toolchain("trace", "pod", f"kube-system/{before['name']}", "--json", stack=settings.name)
    assert ran.code == 0, ran.output
    trace = json.loads(ran.output)
    stages = {stage["name"]: stage for stage in trace["stages"]}
    assert "delete" not in stages
    assert pods[0]["status"]["podIP"] == trace["address"]
    assert trace["address"] in " ".join(stages["network"]["evidence"])
    assert "pause" in " ".join(stages["pause"]["evidence"])
    after = cluster.get("pod", before["name"], "-n", "kube-system")["metadata"]
    assert (after["uid"], after["labels"]) == (before["uid"], before["labels"])


@pytest.mark.long
def test_a_killed_trace_is_cleaned_up_by_the_next(cluster: Cluster, settings: config.Lab) -> None:
    """Pods of killed traces that stay in the namespace for ever."""
    started = Started("trace", "pod", stack=settings.name)
    objects = ("get", "pods", "-n", "default", "-l", SELECTOR, "-o", "name")
    left = eventually("the Pod", lambda: cluster.kubectl(*objects).strip(), seconds=60)
    started.kill_everything()
    check_trace(cluster, settings)
    assert left not in cluster.kubectl(*objects)
    check_nothing_is_left(cluster)


@pytest.mark.long
def test_an_interrupted_trace_removes_its_pod(cluster: Cluster, settings: config.Lab) -> None:
    started = Started("trace", "pod", stack=settings.name)
    objects = ("get", "pods", "-n", "default", "-l", SELECTOR, "-o", "name")
    eventually("the Pod", lambda: cluster.kubectl(*objects).strip(), seconds=60)
    started.interrupt()
    assert started.wait().code == 130
    check_nothing_is_left(cluster)
