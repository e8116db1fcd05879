"""`check-network`: what is tried, by a real bash, and what is said of it."""

import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_lab import cluster

from config.machines import Role
from live import connectivity, status
from live.cluster import Cluster
from live.connectivity import Connectivity, Way
from live.pod_network import PodNetworkStatus


def ways(lab: Cluster, machine: str) -> set[tuple[str, int]]:
    return {(name, port) for name, _, port, _ in connectivity.targets(lab, lab.machine(machine))}


def test_each_machine_tries_all_others_and_the_endpoint(tmp_path: Path) -> None:
    lab = cluster(tmp_path, controllers=1)
    assert ways(lab, "worker-0") == {
        ("the endpoint", 6443),
        *(("load-balancer-0", port) for port in (80, 6443)),
        *(("controller-0", port) for port in (80, 2379, 2380, 6443)),
    }
    assert {port for name, port in ways(lab, "controller-0") if name == "worker-0"} == {10250, 10256}


def test_a_lab_by_kubeadm_has_kubelets_on_controllers_and_no_nginx(tmp_path: Path) -> None:
    lab = cluster(tmp_path, controllers=1, features=["kubeadm"])
    assert {port for name, port in ways(lab, "worker-0") if name == "controller-0"} == {2379, 2380, 6443, 10250, 10256}


def test_etcd_is_tried_where_it_is(tmp_path: Path) -> None:
    lab = cluster(tmp_path, controllers=2)
    dedicated = replace(
        lab,
        machines=[
            replace(each, roles=frozenset({Role.ETCD})) if each.name == "controller-1" else each
            for each in lab.machines
        ],
    )
    assert {port for name, port in ways(dedicated, "worker-0") if name == "controller-0"} == {80, 6443}
    assert {port for name, port in ways(dedicated, "worker-0") if name == "controller-1"} == {2379, 2380}


def test_open_and_closed_ports_are_told_apart() -> None:
    """An answer by the time that it took; a refusal that counts as open."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        open_port, refused = server.getsockname()[1], closed.getsockname()[1]
        closed.close()
        wanted = [("one", "127.0.0.1", open_port, "a"), ("two", "127.0.0.1", refused, "b")]
        done = subprocess.run(
            ["bash", "-c", connectivity.script(wanted, seconds=20)], capture_output=True, text=True, check=True
        )
    found = connectivity.read("here", wanted, done.stdout)
    assert found == [
        Way(source="here", target="one", port=open_port, what="a", problem=""),
        Way(source="here", target="two", port=refused, what="b", problem="connection refused"),
    ]


def test_what_gives_no_answer_has_a_deadline(tmp_path: Path) -> None:
    """Packets that a firewall drops."""
    fake = tmp_path / "timeout"
    fake.write_text("#!/bin/sh\nexit 124\n")
    fake.chmod(0o755)
    wanted = [("one", "192.0.2.1", 1, "a")]
    text = f"PATH={tmp_path}:$PATH\n{connectivity.script(wanted, seconds=3)}"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    late = Way(source="here", target="one", port=1, what="a", problem="no answer within 3 s")
    assert connectivity.read("here", wanted, done.stdout) == [late]


def test_an_answer_that_is_cut_is_no_answer() -> None:
    assert connectivity.read("here", [("one", "192.0.2.1", 1, "a")] * 2, "0 open\n") == "1 of 2 answers"


def test_a_machine_that_cannot_be_asked_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = cluster(tmp_path, controllers=1)
    pods = PodNetworkStatus(machine="worker-0", read=True, reached=("worker-1",), lost=("worker-2",))
    monkeypatch.setattr(status, "gather", lambda _: SimpleNamespace(pod_network=[pods]))

    def ssh(self: Cluster, machine: object, script: str, **_: object) -> subprocess.CompletedProcess[str]:
        if getattr(machine, "name", "") == "worker-0":
            return subprocess.CompletedProcess([], 255, "", "ssh: No route to host\n")
        tries = sum(line.startswith("try ") for line in script.splitlines())
        return subprocess.CompletedProcess([], 0, "".join(f"{number} open\n" for number in range(tries)), "")

    monkeypatch.setattr(Cluster, "ssh", ssh)
    found = connectivity.find(lab)
    assert found.exit_code == 2
    said = list(connectivity.lines(found))
    assert said[0] == "worker-0 could not be asked: ssh: No route to host"
    assert said[1] == "pods on worker-0 -> pods on worker-2: no answer"
    assert said[2] == "13 of 14 ways are open: 12 to ports of machines, 2 from pods to pods on other machines."


@pytest.mark.parametrize(("problem", "code"), [("", 0), ("connection refused", 1)])
def test_the_exit_code_says_whether_all_is_open(problem: str, code: int) -> None:
    way = Way(source="a", target="b", port=6443, what="Kubernetes API", problem=problem)
    assert Connectivity(stack="x", ways=[way], not_asked={}).exit_code == code
