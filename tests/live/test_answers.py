"""Whether a lab answers and runs: with an ssh and a kubectl that answer for the lab."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from small_lab import cluster, node

from live import answers, probe
from live.cluster import Cluster
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
KUBECTL = """#!/bin/bash
echo "$*" >>"$0.log"
case "$*" in
  *"get nodes"*) [ -z "$NO_NODES" ] || { echo "Forbidden" >&2; exit 1; }; cat "$0.nodes" ;;
  *)
    [ "$(grep -c readyz "$0.log")" -gt "${FAILS:-0}" ] || { echo "The connection was refused" >&2; exit 1; }
    echo ok
    ;;
esac
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    # What is wrong stays so, and is asked once.
    monkeypatch.setattr(answers, "_SECONDS", 0)
    monkeypatch.setattr(answers, "_TRIES", 1)
    found = cluster(tmp_path, controllers=1)
    tools = tmp_path / "bin"
    tools.mkdir()
    found.stack.directory.mkdir(parents=True)
    (found.stack.directory / "kubeconfig").write_text("server: https://10.0.0.5:6443\n")
    kubectl = found.stack.directory / "kubectl"
    for program, text in ((tools / "ssh", SSH), (tools / "systemctl", SYSTEMCTL), (kubectl, KUBECTL)):
        program.write_text(text)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    have_nodes(found, node("worker-0"))
    return found


def have_nodes(lab: Cluster, *nodes: dict[str, object]) -> None:
    """The API has these Nodes."""
    (lab.stack.directory / "kubectl.nodes").write_text(json.dumps({"items": nodes}))


def refusal(lab: Cluster) -> str:
    with pytest.raises(ToolchainError) as raised:
        answers.check(lab)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_lab_that_answers_and_runs(lab: Cluster) -> None:
    answers.check(lab)


def test_an_api_server_that_is_restarting_is_waited_for(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_SECONDS", 60)
    monkeypatch.setenv("FAILS", "2")
    answers.check(lab)


@pytest.mark.parametrize(("fails", "answers_in_time"), [(3, True), (4, False)])
def test_a_question_that_takes_all_of_the_time_is_not_the_only_one(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, fails: int, answers_in_time: bool
) -> None:
    """As on a host with a load of 100, at the end of an upgrade that had changed all machines."""
    monkeypatch.setattr(answers, "_TRIES", 4)
    monkeypatch.setattr(answers, "_PAUSE_SECONDS", 0)
    monkeypatch.setenv("FAILS", str(fails))
    if answers_in_time:
        answers.check(lab)
    else:
        assert "The connection was refused" in refusal(lab)


def test_machines_that_are_gone_are_named(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEAD", "controller-0 worker-0")
    monkeypatch.setenv("FAILS", "1000")
    said = refusal(lab)
    assert said.startswith("The lab paper does not answer: ")
    assert "controller-0 (ssh: connect to host controller-0 port 22: No route to host); worker-0 (ssh" in said
    assert "the API at https://10.0.0.5:6443 (The connection was refused)" in said
    assert "`./hardway replace -s paper controller-0 worker-0`" in said
    assert "load-balancer-0" not in said


def test_a_machine_that_hangs_has_a_deadline(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_ALL_SECONDS", 3)
    monkeypatch.setenv("HANGS", "worker-0")
    # Others may be late, too, on a busy host.
    assert "worker-0 (no answer within 3 s)" in refusal(lab)


def test_an_api_that_is_gone_is_a_matter_for_status(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "1000")
    said = refusal(lab)
    assert said.startswith("The lab paper does not answer: the API at https://10.0.0.5:6443 (")
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


def test_a_node_that_is_not_ready_or_missing_is_named(lab: Cluster) -> None:
    have_nodes(lab, node("worker-0", ready="Unknown"))
    assert "is not healthy: the node worker-0 is not Ready: PLEG." in refusal(lab)
    have_nodes(lab)
    assert "is not healthy: worker-0 has no Node in the API." in refusal(lab)


@pytest.mark.parametrize("printed", ["", json.dumps(node("worker-0"))])
def test_one_node_is_no_list_and_none_is_nothing(lab: Cluster, printed: str) -> None:
    """As kubectl prints what it is asked for by name."""
    (lab.stack.directory / "kubectl.nodes").write_text(printed)
    if printed:
        answers.check(lab)
    else:
        assert "worker-0 has no Node in the API" in refusal(lab)
    asked = (lab.stack.directory / "kubectl.log").read_text()
    assert "get nodes worker-0 --ignore-not-found -o json" in asked


def test_nodes_that_cannot_be_listed_are_not_taken_as_ready(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_NODES", "yes")
    assert "is not healthy: the API does not list the Nodes: Forbidden." in refusal(lab)
