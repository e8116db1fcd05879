"""What healthy means is defined in config/health.py alone: what uses it follows a changed definition."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_lab import NOW, cluster, dns, lease, node, objects, ok, saying, well

from components import readiness
from config import health
from live import nodes, pod_network, probe
from live.cluster import Cluster
from live.drills import health as drills
from live.drills import probes, workload
from live.probe import Probe
from live.programs import LEADERS
from live.status import Status, judge
from live.status.endpoint import ask_endpoint

EPOCH = NOW.timestamp()


@pytest.fixture
def lab(tmp_path: Path) -> Cluster:
    return cluster(tmp_path)


def judged(lab: Cluster, probes: Sequence[Probe]) -> Status:
    return judge(lab, probes, endpoint_says="ok", certificates=[], now=NOW)


@pytest.mark.parametrize(("holder", "age", "held"), [("controller-0", 14, True), ("controller-0", 16, False)])
def test_a_lease_is_held_for_its_own_duration(holder: str, age: float, held: bool) -> None:
    spec = lease("kube-scheduler", holder, age)["spec"]
    assert health.is_held(spec, EPOCH) is held
    assert not health.is_held({**spec, "holderIdentity": ""}, EPOCH)
    assert health.is_held({**spec, "leaseDurationSeconds": 60}, EPOCH)
    del spec["leaseDurationSeconds"]
    assert health.is_held(spec, EPOCH) is held


def test_a_node_is_ready_by_its_condition() -> None:
    assert health.has_condition(node("worker-0"))
    assert not health.has_condition(node("worker-0", ready="Unknown"))
    assert not health.has_condition({"status": {}})


@pytest.mark.parametrize(("status", "up"), [("UP", True), ("UP 1/2", True), ("DOWN", False), ("NOLB", False)])
def test_a_server_is_up_while_it_gets_connections(status: str, up: bool) -> None:
    assert health.is_up(status) is up


@pytest.mark.parametrize(
    ("deployment", "problem"),
    [
        (dns(1), "DNS has 1 of 2 replicas available"),
        (dns(0), "DNS has 0 of 2 replicas available"),
        (dns(0, 0), "the Deployment coredns of the cluster's DNS is not in the API, or has no replicas"),
    ],
)
def test_status_tells_of_dns(lab: Cluster, deployment: dict[str, Any], problem: str) -> None:
    leases = (lease("kube-controller-manager", "controller-2", 1), lease("kube-scheduler", "controller-0", 1))
    told = ok(objects(node("worker-0"), *leases, deployment))
    assert judged(lab, saying(well(lab), "controller-0", "objects", told)).problems == [problem]
    # A Node that is not Ready has a line of its own.
    told = ok(objects(node("worker-0", ready="Unknown"), *leases, deployment))
    assert len(judged(lab, saying(well(lab), "controller-0", "objects", told)).problems) == 1


def view(*, status: str = "True", age: float = 1) -> probes.View:
    held = {name: lease(name, "controller-0", age) for name in LEADERS}

    def get(path: str) -> Any:
        if path == "/api/v1/nodes/worker-0":
            return node("worker-0", ready=status)
        name = path.rpartition("/")[2]
        return held.get(name, {"endpoints": []}) if name != "worker-0" else lease("worker-0", "worker-0", 1)

    return probes.look(get, ["worker-0"])


def test_drills_and_status_follow_one_definition(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is healthy by definition, each says so of what answers well."""
    monkeypatch.setattr(time, "time", lambda: EPOCH)
    assert view().ready == {"worker-0"} and view().held == frozenset(LEADERS)
    assert not view(status="False").ready and not view(age=16).held
    pod: dict[str, Any] = {**node("web"), "kind": "Pod"}
    assert workload._is_ready(pod)
    monkeypatch.setattr(health, "condition_of", lambda *_: {})
    monkeypatch.setattr(health, "is_held", lambda *_: False)
    monkeypatch.setattr(health, "is_up", lambda _: False)
    monkeypatch.setattr(health, "replicas", lambda _: (0, 2))
    assert not view().ready and not view().held
    assert not workload._is_ready(pod)
    assert nodes._lacks(node("worker-0"), lease("worker-0", "x", -60), NOW) == "it has never been ready"
    labelled = {**pod, "metadata": {"labels": {"k8s-app": "kube-dns"}}, "spec": {"nodeName": "worker-0"}}
    labelled["status"]["podIP"] = "10.0.0.1"
    assert not list(pod_network._dns_pods([labelled]))
    status = judged(lab, well(lab))
    assert not any(each.ready for each in status.nodes)
    assert not any(each.valid for each in status.leases)
    assert not any(each.up for each in status.backends)
    machine = next(each for each in lab.machines if each.name == "load-balancer-0")
    rows = "# pxname,svname,status\napi-servers,controller-0,UP\n"
    monkeypatch.setattr(Cluster, "ssh", lambda *_, **__: subprocess.CompletedProcess((), 0, stdout=rows, stderr=""))
    (complaint,) = drills._balancer(lab, machine)
    assert complaint.text == "load-balancer-0 has the backend api-servers/controller-0 UP"


def test_all_ask_an_api_server_and_etcd_for_the_same(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "API_READY", "/is-it")
    monkeypatch.setattr(health, "ETCD_MEMBERS", "all-members")
    controller = SimpleNamespace(name="controller-0", address="10.0.0.10", timeout_factor=1)
    network = SimpleNamespace(pod_network="routes")
    args: Any = SimpleNamespace(controllers=[controller], workers=[], etcd_members=1, network=network)
    script = readiness.cluster_checks(args, "https://10.0.0.5:6443")
    assert "https://10.0.0.10:6443/is-it" in script and "https://10.0.0.5:6443/is-it" in script
    assert "'all-members'" in script
    machine = next(each for each in lab.machines if each.name == "controller-0")
    assert ":6443/is-it?verbose" in probe.questions(lab, machine)["readyz"]
    asked: list[str] = []

    def kubectl(_: Cluster, *words: str, **__: Any) -> subprocess.CompletedProcess[str]:
        asked.extend(words)
        return subprocess.CompletedProcess((), 0, stdout="ok", stderr="")

    monkeypatch.setattr(Cluster, "kubectl", kubectl)
    # `./hardway up` at its end and `./hardway status`.
    ask_endpoint(lab)
    assert "/is-it" in asked
    ran: list[str] = []

    def ssh(_: Cluster, machine: Any, script: str, **__: Any) -> subprocess.CompletedProcess[str]:
        ran.append(script)
        return subprocess.CompletedProcess((), 1, stdout="", stderr="")

    monkeypatch.setattr(Cluster, "ssh", ssh)
    drills._etcd(lab)
    assert all("all-members -w json" in each for each in ran) and ran
