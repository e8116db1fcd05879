"""Versions of a running lab: a downgrade, a skipped minor version and any change under kubeadm are refused."""

import copy
import os
import subprocess
import sys
from typing import Any

import pytest

from config import version_changes
from config.version_changes import refusals, written
from toolchain import paths
from toolchain import version_changes as in_state
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from unit.conftest import program
from unit.mocked_engine import lab_of, run_program

COMMAND = "command:local:Command"


@pytest.mark.parametrize(
    ("product", "before", "after", "why"),
    [
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
    found = list(refusals({product: before}, {product: after}, bootstrap="hard-way"))
    assert len(found) == (why is not None)
    assert all(why is not None and why in sentence and product in sentence and after in sentence for sentence in found)


@pytest.mark.parametrize("product", ["kubernetes", "containerd"])
def test_no_version_of_a_kubeadm_lab_changes(product: str) -> None:
    (sentence,) = refusals({product: ["2.3.4"]}, {product: "2.3.5"}, bootstrap="kubeadm")
    assert f"{product} 2.3.4 to 2.3.5: no version of a lab that kubeadm made" in sentence
    assert not list(refusals({product: ["2.3.4"]}, {product: "2.3.4"}, bootstrap="kubeadm"))


def guard(lab: str, versions: dict[str, str], before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the guard of a lab with these versions, as an update."""
    settings = copy.deepcopy(lab_of(lab))
    settings["versions"] = versions
    text = str(run_program(lab, settings).named("machines-versions", COMMAND).inputs["update"])
    return subprocess.run(
        ["bash", "-c", text.replace(".venv/bin/python", sys.executable)],
        cwd=paths.checkout(),
        env={"PATH": os.environ["PATH"], "PULUMI_COMMAND_STDOUT": before, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_plain_pulumi_refuses_a_downgrade() -> None:
    printed = subprocess.run(
        ["bash", "-c", str(program("dev").named("machines-versions", COMMAND).inputs["create"])],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "kubernetes=1.36.4" in printed
    older = {"kubernetes": "1.35.8"}
    refused = guard("dev", older, printed)
    assert refused.returncode == 1 and refused.stdout == ""
    assert "kubernetes 1.36.4 to 1.35.8: that is a downgrade; write kubernetes: 1.36.4 below" in refused.stderr
    insisted = guard("dev", older, printed, INSIST="yes")
    assert insisted.returncode == 0 and "kubernetes=1.35.8" in insisted.stdout
    newer = guard("dev", {}, insisted.stdout)
    assert newer.returncode == 0 and newer.stdout == printed


@pytest.mark.parametrize("lab", ["dev", "libvirt", "gcp", "machines"])
def test_nothing_of_a_lab_is_changed_before_its_versions_are_compared(lab: str) -> None:
    run = program(lab)
    steps = [each for each in run.resources if each.type == "command:remote:Command"]
    assert steps
    for step in steps:
        assert "machines-versions" in run.before(step), step.name


def state(**resource: Any) -> dict[str, Any]:
    return {"deployment": {"resources": [{"urn": "urn:pulumi:own::hardway::x::controller-0", **resource}]}}


FETCH = "fetch https://dl.k8s.io/v1.36.4/bin/linux/amd64/kubelet published /usr/local/bin/kubelet"


def stack(lab: str, kubernetes: str) -> Stack:
    file = paths.checkout() / f"Pulumi.{lab}.yaml"
    return Stack(
        name=lab,
        project="hardway",
        settings_file=file,
        substrate="containers",
        engine="podman",
        kubernetes=kubernetes,
        versions={"kubernetes": kubernetes},
    )


@pytest.mark.parametrize(
    "deployment",
    [
        state(inputs={"stdin": f"{{\n{FETCH}\n}}"}),
        state(inputs={"script": FETCH, "stdin": {"ciphertext": "x"}}),
        {
            "deployment": {
                "resources": [
                    {
                        "urn": "urn:pulumi:own::hardway::x::machines-versions",
                        "outputs": {"stdout": written({"kubernetes": "1.36.4"}, bootstrap="hard-way") + "\n"},
                    }
                ]
            }
        },
    ],
)
def test_make_refuses_by_the_state_also_where_the_lab_is_older_than_the_guard(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INSIST", raising=False)
    with pytest.raises(ToolchainError, match=r"nothing was changed[^~]*1\.36\.4 to 1\.35\.8: that is a downgrade"):
        in_state.check(deployment, stack("dev", "1.35.8"))
    in_state.check(deployment, stack("dev", "1.36.4"))
    in_state.check({"deployment": {}}, stack("dev", "1.35.8"))
    monkeypatch.setenv("INSIST", "yes")
    in_state.check(deployment, stack("dev", "1.35.8"))


def test_what_the_steps_of_a_lab_fetch_names_the_versions_of_all_programs() -> None:
    """So that labs from before this guard have a version in the state."""
    resources = [
        {"urn": f"urn:{each.name}", "inputs": {"stdin": str(each.inputs.get("stdin", ""))}}
        for each in program("dev").of_type("command:remote:Command")
    ]
    found = in_state.running({"deployment": {"resources": resources}})
    guard = str(program("dev").named("machines-versions", COMMAND).inputs["create"])
    wanted = version_changes.read(guard.splitlines()[1].split()[-1].strip("'"))
    assert found == {product: {version} for product, version in wanted.items()}
