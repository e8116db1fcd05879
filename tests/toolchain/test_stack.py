from pathlib import Path

import pytest

from toolchain import paths, stack
from toolchain.errors import ToolchainError


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    (tmp_path / "Pulumi.yaml").write_text("name: toy\nruntime: python\n")
    return tmp_path


def test_defaults(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text("config:\n  toy:lab: {}\n")
    read = stack.read("dev")
    assert (read.project, read.substrate, read.engine) == ("toy", "containers", "podman")
    assert read.kubernetes.startswith("1.")
    assert read.directory == checkout / ".state" / "dev"


def test_what_the_settings_say(checkout: Path) -> None:
    (checkout / "Pulumi.x.yaml").write_text(
        "config:\n  toy:lab:\n    substrate: gcp\n    containers: {engine: docker}\n"
        "    versions: {kubernetes: 1.35.8}\n"
        "    bootstrap: kubeadm\n    network: {pod_network: calico}\n"
    )
    read = stack.read("x")
    assert (read.substrate, read.engine, read.kubernetes) == ("gcp", "docker", "1.35.8")
    assert read.features == {"kubeadm", "calico"}


@pytest.mark.parametrize("text", ["", "config:\n", "config: [1]\n", "config:\n  toy:lab: 7\n"])
def test_wrong_values_are_left_to_the_program(checkout: Path, text: str) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(text)
    assert stack.read("dev").substrate == "containers"


def test_an_unknown_stack_is_told_the_others(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").touch()
    (checkout / "Pulumi.ha.yaml").touch()
    with pytest.raises(ToolchainError, match=r"no Pulumi\.prod\.yaml.*one of: dev, ha"):
        stack.read("prod")


def test_broken_yaml_is_reported(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text("config: [")
    with pytest.raises(ToolchainError, match=r"Pulumi\.dev\.yaml is not valid YAML"):
        stack.read("dev")
