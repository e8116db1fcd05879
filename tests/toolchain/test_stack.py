from pathlib import Path

import pytest

from config.errors import UserError
from config.libvirt import LibvirtSettings
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
        "    bootstrap: kubeadm\n    network: {pod_network: calico}\n    timeout_factor: 10\n"
    )
    read = stack.read("x")
    assert (read.substrate, read.engine, read.kubernetes) == ("gcp", "docker", "1.35.8")
    assert read.features == {"kubeadm", "kubeadm-1.35.8", "calico"}
    assert read.timeout_factor == 10


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "many", "[10]"])
def test_a_timeout_factor_that_the_program_refuses_is_1(checkout: Path, value: str) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(f"config:\n  toy:lab: {{timeout_factor: {value}}}\n")
    assert stack.read("dev").timeout_factor == 1


def test_a_value_that_cannot_be_read_is_the_default_and_the_others_count(checkout: Path) -> None:
    """As the program reads them: it reports the first, and checks the others."""
    (checkout / "Pulumi.dev.yaml").write_text(
        "config:\n  toy:lab:\n    network: {nodes: nowhere, pods: 10.201.0.0/16, pod_network: cilium}\n"
        "    bootstrap: kubeadm\n    libvirt: {pool: 'disks; x', uri: 'qemu:///system?mode=direct'}\n"
    )
    read = stack.read("dev")
    assert (read.nodes, read.pods) == ("10.240.0.0/24", "10.201.0.0/16")
    assert read.features == {"kubeadm", f"kubeadm-{read.kubernetes}", "routes"}
    assert (read.libvirt.pool, read.libvirt.uri) == (LibvirtSettings().pool, "qemu:///system?mode=direct")
    assert (read.choices, read.versions, read.addresses) == (None, None, {})


def test_an_unknown_substrate_has_no_traits(checkout: Path) -> None:
    """Set-up installs nothing for it."""
    (checkout / "Pulumi.dev.yaml").write_text("config:\n  toy:lab: {substrate: docker}\n")
    assert stack.read("dev").traits.packages == ()


@pytest.mark.parametrize("text", ["", "config:\n", "config:\n  toy:lab: 7\n"])
def test_wrong_values_are_left_to_the_program(checkout: Path, text: str) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(text)
    assert stack.read("dev").substrate == "containers"


def test_an_unknown_stack_is_told_the_others(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").touch()
    (checkout / "Pulumi.ha.yaml").touch()
    with pytest.raises(ToolchainError, match=r"no Pulumi\.prod\.yaml.*one of: dev, ha"):
        stack.read("prod")


def test_a_stack_of_the_tests_is_read_from_their_directory(checkout: Path) -> None:
    stacks = checkout / "tests" / "stacks"
    stacks.mkdir(parents=True)
    (stacks / "Pulumi.small-test.yaml").write_text("config:\n  toy:lab: {substrate: gcp}\n")
    (checkout / "Pulumi.dev.yaml").touch()
    read = stack.read("small-test")
    assert (read.settings_file, read.substrate) == (stacks / "Pulumi.small-test.yaml", "gcp")
    # It is none that a user would choose.
    assert stack.names() == ["dev"]
    (checkout / "Pulumi.small-test.yaml").write_text("encryptionsalt: v1:x\n")
    with pytest.raises(ToolchainError, match=r"two settings files for the stack small-test; nothing was changed"):
        stack.read("small-test")


def test_broken_yaml_is_reported(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text("config: [")
    with pytest.raises(UserError, match=r"Pulumi\.dev\.yaml is not valid YAML"):
        stack.read("dev")


@pytest.mark.parametrize("text", ["config:\n- toy:lab: {workers: 1}\n", "config: 7\n"])
def test_a_configuration_that_is_no_map_is_reported(checkout: Path, text: str) -> None:
    (checkout / "Pulumi.dev.yaml").write_text(text)
    with pytest.raises(UserError, match=r"Pulumi\.dev\.yaml: config is no map \(.*\n.*below it toy:lab:"):
        stack.read("dev")


def test_a_key_that_is_there_twice_is_reported(checkout: Path) -> None:
    """Of two values one is taken, and nobody says which."""
    (checkout / "Pulumi.dev.yaml").write_text("config:\n  toy:lab:\n    workers: 1\n    workers: 3\n")
    with pytest.raises(UserError, match=r"line 4: the key workers is in line 3 already: write it once"):
        stack.read("dev")


def test_the_key_without_its_namespace_is_read_as_pulumi_reads_it(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text("config:\n  lab: {substrate: gcp}\n")
    assert stack.read("dev").substrate == "gcp"


def test_both_spellings_of_the_key_are_refused(checkout: Path) -> None:
    (checkout / "Pulumi.dev.yaml").write_text("config:\n  lab: {workers: 1}\n  toy:lab: {workers: 2}\n")
    with pytest.raises(UserError, match=r"config has both toy:lab and lab, which mean the same"):
        stack.read("dev")
