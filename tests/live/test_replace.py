"""Who may be replaced, and what Pulumi is told to do."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from small_lab import cluster, dead, member_state, ok, own_backend, saying, well

from cli import main as commands
from live import nodes, replace
from live.cluster import Cluster
from live.probe import Probe
from live.status.etcd import members
from toolchain import access, operations, prepare, stack_lock
from toolchain.errors import ToolchainError
from toolchain.prepare import Workshop
from toolchain.recovery import locks_of
from toolchain.state import State

URN = "urn:pulumi:paper::toy::hardway:index:Containers$command:local:Command::"
DEPLOYMENT: Mapping[str, Any] = {
    "deployment": {
        "resources": [
            {"type": "pulumi:pulumi:Stack", "urn": "urn:pulumi:paper::toy::pulumi:pulumi:Stack::toy-paper"},
            {"type": "tls:index/privateKey:PrivateKey", "urn": f"{URN}machines-worker-0"},
            {"type": "command:local:Command", "urn": f"{URN}machines-worker-0"},
            {"type": "command:local:Command", "urn": f"{URN}machines-controller-1"},
        ]
    }
}


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return own_backend(tmp_path, monkeypatch)


@pytest.fixture
def lab(tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr("toolchain.paths.checkout", lambda: tmp_path)
    (tmp_path / "Pulumi.paper.yaml").write_text("config: {}\n")
    return cluster(tmp_path)


@pytest.fixture
def told(lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the Pulumi CLI was called with; everything it succeeds in."""
    calls: list[list[str]] = []
    workshop = Workshop(
        pulumi=Path("/bin/false"),
        state=State(environment={}, directory=None, own_passphrase=False),
        environment={},
    )
    monkeypatch.setattr(prepare, "everything", lambda *_, **__: workshop)
    monkeypatch.setattr(operations, "_export_or_init", lambda *_: DEPLOYMENT)

    def pulumi(_: Workshop, __: object, *words: str, program: object) -> int:
        calls.append(list(words))
        return 0

    monkeypatch.setattr(operations, "_pulumi", pulumi)
    monkeypatch.setattr(operations, "outputs", lambda *_: {})
    monkeypatch.setattr(access, "write", lambda *_: None)
    monkeypatch.setattr(access, "show", lambda *_: None)
    monkeypatch.setattr(replace, "probe_all", well)
    monkeypatch.setattr(nodes, "wait_until_heard", lambda *_, **__: {})
    return calls


def test_the_machines_container_is_replaced_and_nothing_else(lab: Cluster, told: list[list[str]]) -> None:
    assert replace.replace(lab, ["controller-1"], insist=False) == 0
    assert replace.replace(lab, ["worker-0", "controller-1", "worker-0"], insist=False) == 0
    replaced = [[word for word in call if word.startswith("--replace")] for call in told]
    assert replaced == [
        [f"--replace={URN}machines-controller-1"],
        [f"--replace={URN}machines-worker-0", f"--replace={URN}machines-controller-1"],
    ]
    assert all(call[0] == "up" and "--yes" in call for call in told)


def test_pulumis_lock_is_held_until_the_cli_takes_it(
    lab: Cluster, told: list[list[str]], backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: dict[str, list[str]] = {}
    real: dict[str, Callable[..., Any]] = {"checks": well, "set-up": prepare.everything, "pulumi": operations._pulumi}

    def noted(when: str) -> Callable[..., Any]:
        def run(*words: Any, **named: Any) -> Any:
            locked[when] = [lock.command for lock in locks_of(backend, lab.stack)]
            return real[when](*words, **named)

        return run

    monkeypatch.setattr(replace, "probe_all", noted("checks"))
    monkeypatch.setattr(prepare, "everything", noted("set-up"))
    monkeypatch.setattr(operations, "_pulumi", noted("pulumi"))
    assert replace.replace(lab, ["controller-1"], insist=False) == 0
    assert locked == {"checks": ["./hardway replace"], "set-up": ["./hardway replace"], "pulumi": []}


def test_a_pulumi_at_work_is_not_disturbed(lab: Cluster, told: list[list[str]], backend: Path) -> None:
    with (
        stack_lock.held(backend, lab.stack, "pulumi"),
        pytest.raises(ToolchainError, match=f"process {os.getpid()} on .*Nothing was changed"),
    ):
        replace.replace(lab, ["controller-1"], insist=False)
    assert told == []


def test_all_wrong_names_are_reported_with_the_right_ones(lab: Cluster, told: list[list[str]]) -> None:
    with pytest.raises(ToolchainError) as error:
        replace.replace(lab, ["worker-7", "worker-0", "foo"], insist=True)
    assert "No machine is called worker-7 or foo. Nothing was changed." in str(error.value)
    assert "load-balancer-0, controller-0, controller-1, controller-2, worker-0." in str(error.value)
    with pytest.raises(ToolchainError, match="No machine was given"):
        replace.replace(lab, [], insist=True)
    assert told == []


def test_a_machine_that_the_state_does_not_have_is_reported(lab: Cluster, told: list[list[str]]) -> None:
    with pytest.raises(ToolchainError, match=r"The state has no machine controller-2"):
        replace.replace(lab, ["controller-2"], insist=False)
    assert told == []


@pytest.mark.parametrize(
    ("down", "replaced", "refused"),
    [
        ([], ["controller-0"], False),
        ([], ["controller-0", "worker-0"], False),
        (["controller-0"], ["controller-0"], False),
        ([], ["controller-0", "controller-1"], True),
        (["controller-0"], ["controller-1"], True),
        (["controller-0", "controller-2"], ["controller-0"], True),
    ],
)
def test_a_quorum_must_remain(lab: Cluster, down: list[str], replaced: list[str], refused: bool) -> None:
    found = members(lab, dead(well(lab), *down))
    if not refused:
        replace.check_quorum(lab, found, replaced, insist=False)
        return
    with pytest.raises(ToolchainError, match=r"(?s)needs 2 to work.*Nothing was changed.*INSIST=yes"):
        replace.check_quorum(lab, found, replaced, insist=False)


def test_the_refusal_says_who_is_healthy(lab: Cluster) -> None:
    found = members(lab, dead(well(lab), "controller-0"))
    with pytest.raises(ToolchainError) as error:
        replace.check_quorum(lab, found, ["controller-1"], insist=False)
    assert (
        "etcd has 3 members and needs 2 to work. Healthy now: controller-1, controller-2. "
        "Without controller-1: controller-2." in str(error.value)
    )


def test_a_single_member_is_not_replaced_unless_one_insists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = cluster(tmp_path, controllers=1)
    found = members(lab, well(lab))
    with pytest.raises(ToolchainError, match=r"1 member and needs 1.*now: controller-0\. Without controller-0: none"):
        replace.check_quorum(lab, found, ["controller-0"], insist=False)
    replace.check_quorum(lab, found, ["controller-0"], insist=True)
    assert "./hardway restore -s paper FILE" in capsys.readouterr().out


def test_a_cluster_of_kubeadms_does_not_begin_anew_even_where_one_insists(tmp_path: Path) -> None:
    lab = cluster(tmp_path, controllers=1, features={"kubeadm"})
    for insist in (False, True):
        with pytest.raises(
            ToolchainError, match=r"(?s)Nothing was changed.*kubeadm cannot bootstrap a new cluster"
        ) as error:
            replace.check_quorum(lab, members(lab, well(lab)), ["controller-0"], insist=insist)
        assert "INSIST" not in str(error.value)


def _election(lab: Cluster) -> list[Probe]:
    """What the machines say right after controller-1, the leader, has died."""
    probes = dead(well(lab), "controller-1")
    for name in ("controller-0", "controller-2"):
        probes = saying(probes, name, "etcd", ok(member_state(name, leader="")))
        probes = saying(probes, name, "health", ok('{"health":"false","reason":"RAFT NO LEADER"}'))
    return probes


def test_an_election_is_waited_for(lab: Cluster, told: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    said = [_election(lab), _election(lab), dead(well(lab), "controller-1")]
    monkeypatch.setattr(replace, "probe_all", lambda _: said.pop(0))
    monkeypatch.setattr(replace, "_LOOK_EVERY", 0)
    assert replace.replace(lab, ["controller-1"], insist=False) == 0
    assert said == [] and len(told) == 1


def test_members_that_stay_without_a_leader_are_no_quorum(
    lab: Cluster, told: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def probe_all(_: Cluster) -> list[Probe]:
        asked.append(time.monotonic())
        return _election(lab)

    monkeypatch.setattr(replace, "probe_all", probe_all)
    monkeypatch.setattr(replace, "_ELECTION_SECONDS", 1)
    with pytest.raises(ToolchainError, match="Healthy now: none") as error:
        replace.replace(lab, ["controller-1"], insist=False)
    reasons = "controller-0 (RAFT NO LEADER), controller-1 (No route to host), controller-2 (RAFT NO LEADER)"
    assert f"Not healthy: {reasons}. Nothing was changed." in str(error.value)
    assert told == [] and asked[-1] - asked[0] >= 1


@pytest.mark.parametrize(
    ("down", "replaced"),
    [(["controller-0", "controller-1"], ["controller-0"]), ([], ["controller-0", "controller-1"])],
)
def test_nothing_is_waited_for_that_cannot_change_the_answer(
    lab: Cluster, told: list[list[str]], monkeypatch: pytest.MonkeyPatch, down: list[str], replaced: list[str]
) -> None:
    unhealthy = saying(well(lab), "controller-2", "health", ok('{"health":"false","reason":"RAFT NO LEADER"}'))
    said = [dead(unhealthy, *down)]
    monkeypatch.setattr(replace, "probe_all", lambda _: said.pop(0))
    with pytest.raises(ToolchainError, match="Nothing was changed"):
        replace.replace(lab, replaced, insist=False)
    assert told == []


def test_a_learner_has_no_vote(lab: Cluster) -> None:
    learner = ok(member_state("controller-2", isLearner=True))
    found = members(lab, saying(well(lab), "controller-2", "etcd", learner))
    with pytest.raises(ToolchainError, match="etcd has 2 members and needs 2"):
        replace.check_quorum(lab, found, ["controller-0"], insist=False)
    replace.check_quorum(lab, found, ["controller-2"], insist=False)


def test_a_node_that_does_not_come_back_is_an_error(
    lab: Cluster, told: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def nobody(_: Cluster, names: list[str], **__: object) -> dict[str, str]:
        asked.append(names)
        return {"worker-0": "its kubelet has not been heard"}

    monkeypatch.setattr(nodes, "wait_until_heard", nobody)
    with pytest.raises(ToolchainError, match="worker-0: its kubelet has not been heard"):
        replace.replace(lab, ["worker-0"], insist=False)
    assert asked == [["worker-0"]]


def test_a_wrong_insist_is_reported(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("live.cluster.find", lambda _: lab)
    monkeypatch.setattr("toolchain.stack.read", lambda _: lab.stack)
    monkeypatch.setenv("INSIST", "maybe")
    assert commands.main(["--stack", "paper", "replace", "worker-0"]) == 1
    assert "INSIST='maybe': must be 'yes', or not set." in capsys.readouterr().err
    assert commands.main(["--stack", "paper", "restore"]) == 2
    assert capsys.readouterr().err == "error: Missing argument 'FILE'. See `hardway restore --help`.\n"
