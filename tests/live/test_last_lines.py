"""What a report of an unhealthy cluster has besides: the last lines of the log of each program that is concerned."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_lab

from live import nodes
from live.cluster import Cluster, LiveMachine
from live.drills import leadership
from live.https_api import ApiError
from live.last_lines import Logged, last_lines
from live.programs import LEADERS, program
from live.search import run as order
from live.search.run import await_healthy
from toolchain.errors import ToolchainError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """No deadline: what is wrong at the first look is reported."""
    monkeypatch.setattr(Cluster, "allowed", lambda _, seconds: 0.0)
    return small_lab.cluster(tmp_path)


def answering(monkeypatch: pytest.MonkeyPatch, lab: Cluster, more: Callable[[LiveMachine, str], str | None]) -> None:
    """Machines that have a line in each log; `more` has other answers."""
    logs = {program(lab, name).log(): name for name in ("etcd", "kube-apiserver", "haproxy", "kubelet")}
    logs |= {program(lab, name).log(): name for name in LEADERS}

    def ssh(_: Cluster, machine: LiveMachine, script: str, **__: Any) -> subprocess.CompletedProcess[str]:
        said = f"{machine.name}: a line of {logs[script]}\n" if script in logs else more(machine, script)
        return subprocess.CompletedProcess([], 1 if said is None else 0, said or "", "it refuses\n")

    monkeypatch.setattr(Cluster, "ssh", ssh)


def api(*silent: str) -> Any:
    """API servers, of which some do not answer."""

    def send(*_: str, url: str, seconds: float) -> None:
        if url in silent:
            raise ApiError("Connection refused")

    return SimpleNamespace(send=send, url="https://x")


def test_a_member_that_is_not_healthy_is_shown_with_its_log(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        {"endpoint": f"https://{member.address}:2379", "health": member.name != "controller-0"}
        for member in lab.etcd_members
    ]

    def said(machine: LiveMachine, script: str) -> str:
        return "# svname\n" if "haproxy" in script else json.dumps(found) + "\n\n"

    answering(monkeypatch, lab, said)
    made = api("https://10.0.0.12:6443")
    with pytest.raises(ToolchainError) as error:
        await_healthy(SimpleNamespace(cluster=lab, api=made))  # type: ignore[arg-type]
    assert str(error.value) == (
        "The control plane is not healthy within 0 s:\n"
        "  etcd at https://10.0.0.10:2379 is not healthy\n"
        "  the API server of controller-2 is not ready: Connection refused\n"
        "  last lines of etcd on controller-0:\n"
        "    controller-0: a line of etcd\n"
        "  last lines of kube-apiserver on controller-2:\n"
        "    controller-2: a line of kube-apiserver"
    )


def test_without_an_answer_of_etcd_all_members_logs_are_shown(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lab, lambda machine, script: None)
    with pytest.raises(ToolchainError) as error:
        await_healthy(SimpleNamespace(cluster=lab, api=api()))  # type: ignore[arg-type]
    said = str(error.value)
    assert "  no member of etcd answers: it refuses\n" in said
    assert "HAProxy on load-balancer-0 does not answer: it refuses\n" in said
    for machine, name in (*((f"controller-{n}", "etcd") for n in range(3)), ("load-balancer-0", "haproxy")):
        assert f"\n  last lines of {name} on {machine}:\n    {machine}: a line of {name}" in said


def test_a_log_that_cannot_be_read_says_why(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = lab.etcd_members[:2]

    def ssh(_: Cluster, machine: LiveMachine, __: str, **___: Any) -> subprocess.CompletedProcess[str]:
        if machine == second:
            raise subprocess.TimeoutExpired([], 20)
        return subprocess.CompletedProcess([], 255, "", "No route to host\n")

    monkeypatch.setattr(Cluster, "ssh", ssh)
    assert last_lines(lab, [Logged(first, "etcd"), Logged(second, "etcd"), Logged(first, "etcd")]) == (
        "\n  last lines of etcd on controller-0:\n    (not read: No route to host)"
        "\n  last lines of etcd on controller-1:\n    (not read: no answer within 20 s)"
    )


def test_nodes_that_did_not_come_are_shown_with_their_kubelets_logs(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, lab, lambda machine, script: None)
    assert nodes.report(lab, {"worker-0": "it is not in the API"}) == (
        "\n  - worker-0: it is not in the API\n  last lines of kubelet on worker-0:\n    worker-0: a line of kubelet"
    )


def test_other_deadlines_show_logs_too(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, lab, lambda machine, script: "")
    monkeypatch.setattr(nodes, "_get", lambda *_: None)
    with pytest.raises(ToolchainError, match=r"(?s)No answer from the API at .*: a line of haproxy.*kube-apiserver"):
        nodes.names_in_api(lab, seconds=1)
    monkeypatch.setattr(leadership, "_holder", lambda *_: None)
    monkeypatch.setattr(Cluster, "change", lambda *_, **__: None)
    with pytest.raises(
        ToolchainError, match=r"(?s)did not become the leader of kube-scheduler.*: a line of kube-scheduler"
    ):
        leadership._take_lease(lab, lab.machine("controller-1"), "kube-scheduler")
    place = SimpleNamespace(cluster=lab)
    with pytest.raises(ToolchainError, match=r"(?s)There is no good answer to within 0 s: a.*: a line of etcd"):
        order._await(place, lambda: ["a"], 1, "There is no good answer to")  # type: ignore[arg-type]
