"""`./hardway scale` on the lab: its figures, and that nothing simulated stays, also after a run that was killed."""

import json
from pathlib import Path

import pytest

from lab.cluster import Cluster
from lab.commands import Ran, Started, toolchain
from lab.polling import eventually
from lab.process_watch import command_lines
from live.scale import PODS_PER_NODE
from live.scale.figures import COMPONENTS
from live.scale.simulation import LABEL, NAMESPACE

pytestmark = pytest.mark.long

_NODES = 20
# KWOK is built at its first use.
_SECONDS = 20 * 60


def test_requests_memory_and_commands_are_measured_and_all_is_as_before(cluster: Cluster, tmp_path: Path) -> None:
    """A figure that is missing; a Node, a Lease, a Pod or a KWOK that stays; a lab that is not what it was."""
    file = tmp_path / "scale.json"
    ran = scale("0", str(_NODES), "--seconds", "5", "--json", str(file))
    assert ran.code == 0, ran.output
    assert f"{_NODES} NODES" in ran.output
    document = json.loads(file.read_text())
    assert (document["controllers"], document["workers"]) == (1, len(cluster.workers))
    assert [(size["nodes"], size["pods"]) for size in document["sizes"]] == [(0, 0), (_NODES, PODS_PER_NODE * _NODES)]
    for size in document["sizes"]:
        requests = {"get", "list 500 pods", "list nodes", "write", "all gets", "all lists", "all writes"}
        assert size["requests"].keys() == requests
        assert all(0 < each["median"] <= each["p99"] and each["count"] > 0 for each in size["requests"].values())
        assert size["memory"].keys() == set(COMPONENTS)
        assert all(mib > 10 for mib in size["memory"].values())
        assert size["database"] > 0
        assert size["commands"].keys() == {"status", "drift"}
        assert not size["failover"], "both drills need three controllers"
        assert size["trouble"] == []
    assert_nothing_is_left(cluster)


def test_the_next_run_removes_what_a_killed_one_left(cluster: Cluster) -> None:
    """Nodes without KWOK: they stay, NotReady, with Pods that nothing ends; or a KWOK that nobody ends."""
    killed = Started("scale", str(_NODES), "--seconds", "600")
    eventually("simulated Pods run", lambda: pods(cluster) == PODS_PER_NODE * _NODES, seconds=_SECONDS)
    killed.kill_everything()
    assert killed.wait().code != 0
    eventually("KWOK ends with the run that started it", lambda: not kwok(cluster), seconds=30)
    assert len(simulated(cluster)) == _NODES
    ran = scale("0", "--seconds", "1")
    assert ran.code == 0, ran.output
    assert_nothing_is_left(cluster)


def scale(*arguments: str) -> Ran:
    return Started("scale", *arguments).wait(_SECONDS)


def assert_nothing_is_left(cluster: Cluster) -> None:
    """No object and no process of the simulation, a healthy lab, and nothing to change."""
    assert simulated(cluster) == []
    workers = sorted(each.name for each in cluster.workers)
    assert sorted(each["metadata"]["name"] for each in cluster.get("nodes")["items"]) == workers
    gone = cluster.try_kubectl("get", "namespace", NAMESPACE)
    assert "NotFound" in gone.stderr, gone
    # The garbage collector deletes them after their Nodes.
    eventually("no Lease is left", lambda: leases(cluster) == workers, seconds=60)
    eventually("KWOK ends", lambda: not kwok(cluster), seconds=30)
    status = toolchain("status")
    assert status.code == 0, status.output
    up = toolchain("up")
    assert up.code == 0, up.output
    assert up.summary.keys() == {"unchanged"}, up.output


def simulated(cluster: Cluster) -> list[str]:
    return [each["metadata"]["name"] for each in cluster.get("nodes", "-l", f"{LABEL}=true")["items"]]


def leases(cluster: Cluster) -> list[str]:
    return sorted(each["metadata"]["name"] for each in cluster.get("leases", "-n", "kube-node-lease")["items"])


def pods(cluster: Cluster) -> int:
    running = ("--field-selector=status.phase=Running",)
    return len(cluster.get("pods", "-n", NAMESPACE, *running)["items"])


def kwok(cluster: Cluster) -> list[str]:
    """The processes that simulate Nodes on this lab, KWOK's and the shell that ends it."""
    kubeconfig = str(cluster.directory / "kubeconfig")
    return [line for line in command_lines() if "kwok" in line and kubeconfig in line]
