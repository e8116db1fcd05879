"""Whether a lab answers and runs: with an ssh and an API that answer for the lab."""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from small_lab import cluster, node

from lab.json_server import Request, json_server
from live import answers, last_questions, probe
from live.cluster import Cluster
from live.https_api import Api
from toolchain import paths
from toolchain.errors import ToolchainError

SSH = """#!/bin/bash
for machine; do case $machine in *-[0-9]) break ;; esac; done
case " $DEAD " in *" $machine "*) echo "ssh: connect to host $machine port 22: No route to host" >&2; exit 255 ;; esac
case " $HANGS " in *" $machine "*) exec sleep 30 ;; esac
export machine
eval "${*: -1}"
"""
SYSTEMCTL = """#!/bin/bash
[ "$machine" != "$MUTE" ] || { echo "Failed to connect to bus" >&2; exit 1; }
shift
for unit; do
  case " $DOWN " in *" $machine/$unit "*) echo failed ;; *) echo active ;; esac
done
"""


class Served(Api):
    """The lab's API, by a server of the test's own.

    Attributes:
        nodes: those that it has.
        refuses: what it says instead of a Node.
        fails: how often it is not ready.
        asked: the paths, in their order.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.refuses = ""
        self.fails = 0
        self.asked: list[str] = []
        self.address = ""

    def answer(self, request: Request) -> tuple[int, Any]:
        """What the API server says."""
        self.asked.append(request.path)
        if request.path == "/readyz":
            return (500, "etcd failed") if self.asked.count("/readyz") <= self.fails else (200, "ok")
        if self.refuses:
            return 403, {"message": self.refuses}
        found = self.nodes.get(request.path.removeprefix("/api/v1/nodes/"))
        return (200, found) if found else (404, {"message": "not found"})

    def connection(  # type: ignore[override]
        self, url: str | None = None, *, seconds: float = 1.0, proxy_port: int | None = None
    ) -> HTTPConnection:
        """Without TLS."""
        return HTTPConnection(self.address, timeout=seconds)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    made = Served()
    monkeypatch.setattr(last_questions, "Api", lambda _: made)
    with json_server(made.answer) as url:
        made.address = url.removeprefix("http://")
        yield made


@pytest.fixture
def lab(api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    # What is wrong stays so, and is asked once.
    monkeypatch.setattr(answers, "_SECONDS", 0)
    monkeypatch.setattr(answers, "_TRIES", 1)
    found = cluster(tmp_path, controllers=1)
    tools = tmp_path / "bin"
    tools.mkdir()
    found.stack.directory.mkdir(parents=True)
    (found.stack.directory / "kubeconfig").write_text("server: https://10.0.0.5:6443\n")
    for program, text in (("ssh", SSH), ("systemctl", SYSTEMCTL)):
        (tools / program).write_text(text)
        (tools / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    api.nodes = {"worker-0": node("worker-0")}
    return found


def refusal(lab: Cluster) -> str:
    with pytest.raises(ToolchainError) as raised:
        answers.check(lab)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_lab_that_answers_and_runs(lab: Cluster) -> None:
    answers.check(lab)


def test_an_api_server_that_is_restarting_is_waited_for(
    lab: Cluster, api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_SECONDS", 60)
    api.fails = 2
    answers.check(lab)


@pytest.mark.parametrize(("fails", "answers_in_time"), [(3, True), (4, False)])
def test_a_question_that_takes_all_of_the_time_is_not_the_only_one(
    lab: Cluster, api: Served, monkeypatch: pytest.MonkeyPatch, fails: int, answers_in_time: bool
) -> None:
    """As on a host with a load of 100, at the end of an upgrade that had changed all machines."""
    monkeypatch.setattr(answers, "_TRIES", 4)
    monkeypatch.setattr(answers, "_PAUSE_SECONDS", 0)
    api.fails = fails
    if answers_in_time:
        answers.check(lab)
    else:
        assert "(HTTP 500: etcd failed)" in refusal(lab)


def test_machines_that_are_gone_are_named(lab: Cluster, api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAD", "controller-0 worker-0")
    api.fails = 1000
    said = refusal(lab)
    assert said.startswith("The lab paper does not answer: ")
    assert "controller-0 (ssh: connect to host controller-0 port 22: No route to host); worker-0 (ssh" in said
    assert "the API at https://10.0.0.5:6443 (HTTP 500: etcd failed)" in said
    assert "`./hardway replace -s paper controller-0 worker-0`" in said
    assert "load-balancer-0" not in said


def test_a_machine_that_hangs_has_a_deadline(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ALL_SECONDS", 3)
    monkeypatch.setenv("HANGS", "worker-0")
    # Others may be late, too, on a busy host.
    assert "worker-0 (no answer within 3 s)" in refusal(lab)


def test_an_api_that_is_gone_is_a_matter_for_status(lab: Cluster, api: Served) -> None:
    # Nothing listens there.
    api.address = "127.0.0.1:1"
    said = refusal(lab)
    assert said.startswith("The lab paper does not answer: the API at https://10.0.0.5:6443 (ConnectionRefusedError: ")
    assert said.endswith("Run `./hardway status -s paper` for details.")


def test_existing_hosts_are_started_by_their_owner(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAD", "worker-0")
    said = refusal(replace(lab, stack=replace(lab.stack, substrate="machines")))
    assert said.endswith("Start worker-0, then run `./hardway status -s paper`.")


def test_a_stopped_unit_is_named(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOWN", "controller-0/kube-scheduler.service worker-0/kube-proxy.service")
    assert refusal(lab) == (
        "The lab paper is not healthy: kube-scheduler.service on controller-0 does not run; "
        "kube-proxy.service on worker-0 does not run. Run `./hardway status -s paper` for details."
    )


def test_a_machine_that_cannot_list_its_units_is_not_taken_as_healthy(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUTE", "worker-0")
    assert "is not healthy: systemd, which tells nothing of units, on worker-0 does not run." in refusal(lab)


def test_an_api_that_says_nothing_has_a_deadline(lab: Cluster, api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_questions, "_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api.address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "the API at https://10.0.0.5:6443 (no answer within 1 s)" in refusal(lab)


def test_a_node_that_is_not_ready_or_missing_is_named(lab: Cluster, api: Served) -> None:
    api.nodes = {"worker-0": node("worker-0", ready="Unknown")}
    assert "is not healthy: the node worker-0 is not Ready: PLEG." in refusal(lab)
    api.nodes = {}
    assert "is not healthy: worker-0 has no Node in the API." in refusal(lab)


def test_only_the_labs_own_nodes_are_asked_for(lab: Cluster, api: Served) -> None:
    api.nodes["another"] = node("another", ready="Unknown")
    answers.check(lab)
    assert api.asked == ["/readyz", "/api/v1/nodes/worker-0"]


def test_nodes_that_cannot_be_listed_are_not_taken_as_ready(lab: Cluster, api: Served) -> None:
    api.refuses = "Forbidden"
    assert "is not healthy: the API does not list the Nodes: HTTP 403: Forbidden." in refusal(lab)


def test_a_kubeconfig_that_is_damaged_is_a_problem_and_no_crash(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_questions, "Api", Api)
    assert "the API at https://10.0.0.5:6443 (the kubeconfig cannot be used: " in refusal(lab)


KUBECTL = """#!/bin/bash
echo "$*" >>"$0.log"
case "$*" in
  *"-o json"*) cat "$0.nodes" ;;
  *"-o wide"*) echo NAME ;;
  *readyz*) echo ok ;;
esac
"""


@pytest.mark.parametrize("ready", [True, False])
def test_a_public_address_is_asked_by_kubectl_which_knows_the_users_proxy(
    lab: Cluster, api: Served, ready: bool
) -> None:
    """Of one Node kubectl prints no list."""
    (lab.stack.directory / "kubeconfig").write_text("server: https://34.10.20.30:6443\n")
    kubectl = lab.stack.directory / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    nodes = lab.stack.directory / "kubectl.nodes"
    nodes.write_text(json.dumps(node("worker-0", ready=str(ready))))
    if ready:
        answers.check(lab)
    else:
        assert "the node worker-0 is not Ready: PLEG." in refusal(lab)
    assert last_questions.table_of_nodes(lab) == "NAME\n"
    nodes.write_text("")
    assert "worker-0 has no Node in the API" in refusal(lab)
    assert api.asked == []
    asked = (lab.stack.directory / "kubectl.log").read_text()
    assert "get nodes worker-0 --ignore-not-found -o json" in asked


def test_the_table_of_nodes_is_kubectls() -> None:
    columns = [{"name": "Name"}, {"name": "Status"}, {"name": "Container-Runtime"}]
    rows = [["worker-0", "Ready", "containerd://2.3.6"], ["w", "NotReady,SchedulingDisabled", "x"]]
    table = {"columnDefinitions": columns, "rows": [{"cells": cells} for cells in rows]}
    assert last_questions.printed(table) == (
        "NAME       STATUS                        CONTAINER-RUNTIME\n"
        "worker-0   Ready                         containerd://2.3.6\n"
        "w          NotReady,SchedulingDisabled   x\n"
    )
