"""Versions of a running lab: a downgrade, a skipped minor version and any change under kubeadm are refused."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from config import upgrade_record, version_changes
from config.upgrade_record import UpgradeRecord
from config.version_changes import refusals, written
from lab.shipped import lab_of
from toolchain import paths
from toolchain import stack as in_stack
from toolchain import version_changes as in_state
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from unit.conftest import program

COMMAND = "command:local:Command"


@pytest.mark.parametrize(
    ("product", "before", "after", "why"),
    [
        ("kubernetes", ["1.37.0-rc.1"], "1.36.4", "downgrade"),
        ("kubernetes", ["1.36.4"], "1.35.8", "downgrade"),
        ("kubernetes", ["1.36.4"], "1.36.3", "downgrade"),
        ("kubernetes", ["1.34.1"], "1.36.4", "skips a minor version"),
        ("kubernetes", ["1.36.4"], "2.37.0", "skips a minor version"),
        ("kubernetes", ["1.34.1", "1.35.8"], "1.36.4", "skips a minor version"),
        ("kubernetes", ["1.35.8", "1.36.4"], "1.35.8", "downgrade"),
        ("etcd", ["3.6.14"], "3.5.20", "downgrade"),
        ("etcd", ["3.5.20"], "3.7.0", "skips a minor version"),
        ("containerd", ["2.3.4"], "2.3.3", "downgrade"),
        ("kubernetes", ["1.35.8"], "1.36.4", None),
        ("kubernetes", ["1.35.9"], "1.35.10", None),
        ("kubernetes", ["1.35.8", "1.36.4"], "1.36.4", None),
        ("containerd", ["2.1.4"], "2.3.4", None),
        ("kubernetes", [], "1.36.4", None),
        ("kubernetes", ["1.36.4"], "1.36.4", None),
    ],
)
def test_a_change_that_a_cluster_does_not_survive_is_refused(
    product: str, before: list[str], after: str, why: str | None
) -> None:
    found = list(refusals({product: before}, {product: after}, "hard-way"))
    assert len(found) == (why is not None)
    assert all(why is not None and why in sentence and product in sentence and after in sentence for sentence in found)


def test_only_kubernetes_changes_in_a_kubeadm_lab() -> None:
    (sentence,) = refusals({"containerd": ["2.3.4"]}, {"containerd": "2.3.5"}, "kubeadm")
    assert "containerd 2.3.4 to 2.3.5: in a running kubeadm lab only the version of kubernetes changes" in sentence
    assert not list(refusals({"containerd": ["2.3.4"]}, {"containerd": "2.3.4"}, "kubeadm"))
    assert not list(refusals({"kubernetes": ["1.35.8"]}, {"kubernetes": "1.36.4"}, "kubeadm"))
    (sentence,) = refusals({"kubernetes": ["1.36.4"]}, {"kubernetes": "1.35.8"}, "kubeadm")
    assert "downgrade" in sentence


@pytest.mark.parametrize(("packages", "changes"), [("artifacts", True), ("apt", False)])
def test_no_version_of_a_kubeadm_lab_with_packages_changes(packages: str, changes: bool) -> None:
    made_by = version_changes.made_by("kubeadm", packages)
    assert bool(list(refusals({"kubernetes": ["1.35.8"]}, {"kubernetes": "1.36.4"}, made_by))) != changes


def test_the_state_gets_all_versions() -> None:
    guard = program("dev").named("machines-versions", COMMAND)
    printed = subprocess.run(
        ["bash", "-c", str(guard.inputs["create"])], capture_output=True, text=True, check=True
    ).stdout
    assert version_changes.read(printed.strip()) == program("dev").outputs["versions"]
    # An update prints the new ones.
    assert "update" not in guard.inputs


@pytest.mark.parametrize("lab", ["dev", "libvirt", "gcp", "machines"])
def test_nothing_of_a_lab_is_changed_before_its_versions_are_compared(lab: str) -> None:
    run = program(lab)
    steps = [each for each in run.resources if each.type == "command:remote:Command"]
    assert steps
    for step in steps:
        assert "machines-versions" in run.before(step), step.name


def state(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"deployment": {"resources": [{"urn": "urn:pulumi:own::hardway::x::controller-0"}, *resources]}}


def guard(kubernetes: str) -> dict[str, Any]:
    printed = {"stdout": written({"kubernetes": kubernetes, "etcd": "3.6.14"})}
    return {"urn": "urn:pulumi:own::hardway::x::machines-versions", "outputs": printed}


def outputs(kubernetes: str) -> dict[str, Any]:
    """Of a lab: those before the guard have nothing else."""
    return {
        "urn": "urn:pulumi:own::hardway::pulumi:pulumi:Stack::hardway-own",
        "type": "pulumi:pulumi:Stack",
        "outputs": {"versions": {"kubernetes": kubernetes}},
    }


def stack(kubernetes: str, bootstrap: str = "hard-way") -> Stack:
    return Stack(
        name="dev",
        project="hardway",
        settings_file=paths.checkout() / "Pulumi.dev.yaml",
        substrate="containers",
        engine="podman",
        kubernetes=kubernetes,
        versions={"kubernetes": kubernetes},
        bootstrap=bootstrap,
        nodes_by_name=("controller-0", "worker-0", "worker-1"),
    )


@pytest.mark.parametrize(
    "deployment",
    [state(guard("1.36.4")), state(outputs("1.36.4")), state(outputs("1.35.8"), guard("1.36.4"))],
    ids=["guard", "older than the guard", "an update that did not finish"],
)
def test_make_refuses_by_the_state(deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSIST", raising=False)
    with pytest.raises(ToolchainError, match=r"nothing was changed[^~]*1\.36\.4 to 1\.35\.8: that is a downgrade"):
        in_state.check(deployment, stack("1.35.8"))
    in_state.check(deployment, stack("1.36.4"))
    monkeypatch.setenv("INSIST", "yes")
    in_state.check(deployment, stack("1.35.8"))


def test_a_kubeadm_lab_is_asked_for_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSIST", raising=False)
    with pytest.raises(ToolchainError, match="kubeadm"):
        in_state.check(state(outputs("1.35.8")), stack("1.36.4", version_changes.BY_PACKAGES))
    in_state.check(state(outputs("1.35.8")), stack("1.36.4", "kubeadm"))


def joined(*names: str) -> list[dict[str, Any]]:
    """The steps after which machines are Nodes; and others of kubeadm's, which they have before."""
    kubeadm = "urn:pulumi:own::hardway::hardway:index:Kubeadm"
    nodes = [{"urn": f"{kubeadm}$command:remote:Command::kubeadm-{name}"} for name in names]
    return [*nodes, {"urn": f"{kubeadm}Node$command:remote:Command::kubeadm-node-worker-1"}]


def test_no_machine_joins_while_the_version_of_a_kubeadm_lab_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("INSIST", raising=False)
    monkeypatch.setattr("config.paths.state", lambda: tmp_path)
    (tmp_path / "dev").mkdir()
    smaller = state(outputs("1.35.8"), *joined("controller-0", "worker-0"))
    new = stack("1.36.4", "kubeadm")
    with pytest.raises(ToolchainError) as refused:
        in_state.check_joins(smaller, new)
    assert "nothing was changed: worker-1 would join the lab dev" in str(refused.value)
    assert "set lab.versions.kubernetes to 1.35.8" in str(refused.value)
    in_state.check_joins(smaller, stack("1.35.8", "kubeadm"))
    # What the command line asks for, while the settings still have the version before.
    with pytest.raises(ToolchainError, match=r"from 1\.35\.8 to 1\.36\.4"):
        in_state.check_joins(smaller, stack("1.35.8", "kubeadm"), kubernetes="1.36.4")
    whole = state(outputs("1.35.8"), *joined("controller-0", "worker-0", "worker-1"))
    in_state.check_joins(whole, new)
    # An update that did not finish is the change, too.
    unfinished = state(outputs("1.35.8"), guard("1.36.4"), *joined("controller-0", "worker-0", "worker-1"))
    record = UpgradeRecord(before={"kubernetes": "1.35.8"}, after={"kubernetes": "1.36.4"}, snapshot="x")
    upgrade_record.write("dev", record)
    with pytest.raises(ToolchainError, match=r"worker-0 would join[^~]*--continue` or `--rollback"):
        in_state.check_joins(unfinished, new, recreated=["worker-0", "load-balancer-0"])
    monkeypatch.setenv("INSIST", "yes")
    in_state.check_joins(smaller, new)


def test_a_machine_joins_where_no_kubelet_is_newer_than_the_api_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of the hard way come after the control plane; a new lab has no cluster yet."""
    monkeypatch.delenv("INSIST", raising=False)
    in_state.check_joins(state(outputs("1.35.8")), stack("1.36.4"))
    in_state.check_joins(state(guard("1.35.8"), *joined()), stack("1.36.4", "kubeadm"))
    in_state.check_joins({"deployment": None}, stack("1.36.4", "kubeadm"))


def test_the_nodes_of_a_stack_are_those_of_its_program() -> None:
    for lab in ("dev", "kubeadm"):
        steps = {each.name for each in program(lab).resources if each.type == "command:remote:Command"}
        nodes = in_stack.read(lab).nodes_by_name
        assert nodes
        named = {f"kubeadm-{name}" for name in nodes} if lab == "kubeadm" else {f"{name}-node" for name in nodes}
        assert named <= steps


def test_without_a_lab_any_version_is_taken() -> None:
    for deployment in ({}, {"deployment": None}, {"deployment": {"resources": None}}, state()):
        in_state.check(deployment, stack("1.35.8", "kubeadm"))


def test_the_settings_of_a_stack_name_its_versions() -> None:
    for lab in ("dev", "kubeadm"):
        read = in_stack.read(lab)
        assert read.versions == program(lab).outputs["versions"]
        assert read.bootstrap == lab_of(lab).get("bootstrap", "hard-way")
