"""Drills that cannot be done are refused before anything is changed."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from config.machines import Role
from live import drills
from live.cluster import Cluster, LiveMachine
from live.drills.catalogue import DRILLS, Drill
from live.drills.faults import check_packet_filter
from live.drills.run import Outcome
from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.recovery import locks_of
from toolchain.stack import Stack


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of Pulumi's state of the test's own: commands that change a lab write a lock there."""
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}/backend")
    return tmp_path / "backend"


@pytest.fixture
def stack(tmp_path: Path, backend: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack whose files say what a test has `lab` write; nothing answers at its addresses, and nothing must ask."""
    monkeypatch.setattr(paths, "state", lambda: tmp_path)

    def changed(*_: object, **__: object) -> None:
        raise AssertionError("the lab was changed")

    monkeypatch.setattr(drills, "_do", changed)
    monkeypatch.setattr(drills, "check_packet_filter", lambda cluster, machines: None)
    return Stack(
        name="lab",
        project="hardway",
        settings_file=tmp_path / "Pulumi.lab.yaml",
        substrate="containers",
        engine="podman",
        kubernetes="1.36.4",
    )


def lab(stack: Stack, *, controllers: int, workers: int = 2, balancers: int = 1, members: int = 0) -> None:
    counts = {
        Role.LOAD_BALANCER: balancers,
        Role.ETCD: members,
        Role.CONTROLLER: controllers,
        Role.WORKER: workers,
    }
    machines = [
        {"name": f"{role}-{number}", "roles": [role], "address": f"192.0.2.{10 * place + number}", "pod_cidr": None}
        for place, (role, count) in enumerate(counts.items(), 1)
        for number in range(count)
    ]
    stack.directory.mkdir(exist_ok=True)
    (stack.directory / "kubeconfig").write_text("{}")
    (stack.directory / "lab.json").write_text(json.dumps({"endpoint": "https://192.0.2.10:6443", "machines": machines}))


def refusal(stack: Stack, *names: str) -> str:
    with pytest.raises(ToolchainError) as refused:
        drills.main(stack, names)
    return str(refused.value)


def test_a_lab_that_is_not_up(stack: Stack) -> None:
    assert "The lab lab is not up" in refusal(stack)


@pytest.mark.parametrize("name", ["stop-leader", "stop-worker", "stop-balancer", "restart-all", "restart-engine"])
def test_machines_without_a_power_switch(stack: Stack, name: str) -> None:
    lab(stack, controllers=3, balancers=2)
    said = refusal(replace(stack, substrate="gcp"), name)
    assert f"cannot have the drill {name}: it needs machines that are containers" in said
    assert "Nothing was changed" in said


def test_what_needs_only_ssh_is_done_on_every_substrate(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    lab(stack, controllers=3, balancers=2)
    asked: list[str] = []

    def do(chosen: Sequence[Drill], _: Cluster) -> tuple[list[Outcome], str]:
        asked.extend(drill.name for drill in chosen)
        return [], ""

    monkeypatch.setattr(drills, "_do", do)
    drills.main(replace(stack, substrate="machines"), [])
    assert asked == [*(drill.name for drill in DRILLS if drill.quick), "partition", "fill-quota"]


def test_machines_without_a_packet_filter_are_named_before_anything_is_changed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Existing hosts: the lab installs nftables on workers alone."""
    lab(stack, controllers=3)
    said = {"controller-0": (0, "yes"), "controller-1": (0, "no"), "controller-2": (255, "")}

    def ssh(_: Cluster, machine: LiveMachine, script: str) -> subprocess.CompletedProcess[str]:
        status, out = said[machine.name]
        return subprocess.CompletedProcess([], status, stdout=out, stderr="No route to host")

    monkeypatch.setattr(Cluster, "ssh", ssh)
    monkeypatch.setattr(drills, "check_packet_filter", check_packet_filter)
    assert refusal(replace(stack, substrate="machines"), "partition") == (
        "Nothing was changed:\n"
        "  - controller-1 has no nft: install the package nftables there\n"
        "  - controller-2 does not answer: No route to host"
    )


def test_a_name_that_does_not_exist(stack: Stack) -> None:
    lab(stack, controllers=3)
    assert "must be one or more of kill-etcd," in refusal(stack, "kill-everything")


@pytest.mark.parametrize("name", ["kill-etcd", "kill-kube-scheduler", "stop-leader", "partition", "fill-quota"])
def test_a_drill_of_high_availability_on_a_lab_without(stack: Stack, name: str) -> None:
    lab(stack, controllers=1)
    said = refusal(stack, name)
    assert f"cannot have the drill {name}" in said
    assert "three controllers and three etcd members at least; lab has 1 and 1" in said
    assert "Nothing was changed" in said


def test_all_drills_on_a_lab_without_high_availability(stack: Stack) -> None:
    """Half of them would pass, and the table look like a proof."""
    lab(stack, controllers=1)
    said = refusal(stack)
    assert "three controllers" in said
    assert "By name this lab can have: kill-kubelet, kill-containerd, kill-kube-proxy, kill-haproxy" in said


def test_a_single_etcd_member_beside_three_controllers(stack: Stack) -> None:
    lab(stack, controllers=3, members=1)
    assert "lab has 3 and 1" in refusal(stack)


def test_a_worker_that_is_the_only_one(stack: Stack) -> None:
    lab(stack, controllers=3, workers=1)
    assert "two machines with the role worker at least; lab has 1" in refusal(stack, "stop-worker")


def test_what_cannot_be_had_of_one_balancer_is_said_and_not_passed(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, backend: Path
) -> None:
    lab(stack, controllers=3)
    asked: list[str] = []

    def do(chosen: Sequence[Drill], _: Cluster) -> tuple[list[Outcome], str]:
        # Plain `pulumi up` is kept out meanwhile.
        assert [lock.command for lock in locks_of(backend, stack)] == ["./hardway drill"]
        asked.extend(drill.name for drill in chosen)
        return [], ""

    monkeypatch.setattr(drills, "_do", do)
    file = tmp_path / "figures.json"
    # No drill was done here, and that is no success either.
    assert drills.main(stack, [], file) == 1
    assert asked == [drill.name for drill in DRILLS if drill.name != "stop-balancer"]
    assert "stop-balancer: not applicable, and not done" in capsys.readouterr().out
    written = json.loads(file.read_text())
    assert written["not_applicable"].keys() == {"stop-balancer"}
    assert written["passed"] is False
