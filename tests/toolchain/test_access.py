from dataclasses import replace
from pathlib import Path

import pytest

from config.versions import pins
from toolchain import access, paths
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from toolchain.versions import architecture

OUTPUTS = {
    "kubeconfig": "apiVersion: v1\n# secret-1",
    "ssh_config": "Host worker-1 w1\n  HostName 10.0.0.1\nHost *\n  User root\nHost controller-1\n",
    "ssh_private_key": "secret-2\n",
    "endpoint": "https://10.0.0.1:6443",
    "machines": [{"name": "worker-1", "roles": ["worker"], "address": "10.0.0.1"}],
    "certificates": [{"name": "pki-admin", "subject": "CN=admin", "not_after": "2027-01-01T00:00:00Z"}],
}
VERSION = pins().products["kubernetes"].default


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setenv("HARDWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    released = paths.mirror() / pins().products["kubernetes"].path_of("kubectl", version=VERSION, arch=architecture())
    released.parent.mkdir(parents=True)
    # Not executable, as downloads are.
    released.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    return Stack(
        name="dev",
        project="toy",
        settings_file=tmp_path / "Pulumi.dev.yaml",
        substrate="containers",
        engine="podman",
        kubernetes=VERSION,
    )


def test_a_resource_is_known_by_when_it_was_changed_and_not_by_its_place_or_ciphertext() -> None:
    def of(*resources: tuple[str, str, str]) -> dict[str, str]:
        return access.modified(
            {"resources": [{"urn": urn, "modified": at, "outputs": {"key": secret}} for urn, at, secret in resources]}
        )

    before = of(("a", "10:00", "v1:x"), ("b", "10:01", "v1:y"))
    assert of(("b", "10:01", "v1:z"), ("a", "10:00", "v1:x")) == before
    assert of(("a", "10:00", "v1:x"), ("b", "10:02", "v1:y")) != before
    assert of(("a", "10:00", "v1:x")) != before
    assert access.modified({}) == {}


def test_what_a_killed_run_was_told_is_removed_before_the_next(stack: Stack) -> None:
    file = access.room_for_outputs(stack)
    file.write_text("{}")
    assert access.room_for_outputs(stack) == file
    assert not file.exists()


# Which engine the lab runs on: no secret.
RECORD = {"container-engine": 0o644}


def test_the_files_are_for_the_users_eyes_only(stack: Stack) -> None:
    access.write(stack, OUTPUTS)
    access.write(stack, OUTPUTS | {"kubeconfig": "apiVersion: v1\n# newer"})
    modes = {file.name: file.stat().st_mode & 0o777 for file in stack.directory.iterdir()}
    assert (
        modes
        == {"kubeconfig": 0o600, "ssh_config": 0o600, "ssh_key": 0o600, "lab.json": 0o600, "kubectl": 0o755} | RECORD
    )
    assert stack.directory.stat().st_mode & 0o777 == 0o700
    assert (stack.directory / "kubeconfig").read_text() == "apiVersion: v1\n# newer\n"
    assert (stack.directory / "ssh_key").read_text() == "secret-2\n"


@pytest.mark.parametrize(
    ("server", "given", "direct"),
    [
        ("10.240.0.5", None, "10.240.0.5"),
        ("10.240.0.5", ".example", ".example,10.240.0.5"),
        ("34.90.1.2", ".example", ".example"),
        ("34.90.1.2", None, None),
        ("api.example", None, None),
    ],
)
def test_private_addresses_are_connected_to_without_a_proxy(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, server: str, given: str | None, direct: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    if given:
        monkeypatch.setenv("NO_PROXY", given)
    access.write(stack, OUTPUTS | {"kubeconfig": f"clusters:\n- cluster:\n    server: https://{server}:6443\n"})
    assert access.kubectl_environment(stack).get("NO_PROXY") == direct


def test_only_connections_within_the_host_use_the_cheap_key_exchange(stack: Stack) -> None:
    """Those to other hosts may be recorded, and read when there are quantum computers."""
    quick = ["-o", "KexAlgorithms=^curve25519-sha256"]
    assert access.ssh_command(stack)[-2:] == quick
    for substrate in ("libvirt", "gcp", "machines"):
        assert not any("Kex" in word for word in access.ssh_command(replace(stack, substrate=substrate)))


def test_what_is_shown_has_no_secret(stack: Stack, capfd: pytest.CaptureFixture[str]) -> None:
    access.write(stack, OUTPUTS)
    access.show(stack, OUTPUTS)
    said = capfd.readouterr()
    assert f"<--kubeconfig><{stack.directory}/kubeconfig><get><nodes><-o><wide><--request-timeout=30s>" in said.out
    assert "endpoint    https://10.0.0.1:6443" in said.out
    assert f"kubeconfig  {stack.directory}/kubeconfig" in said.out
    assert "secret" not in said.out + said.err


@pytest.mark.parametrize(("features", "says"), [({"routes"}, True), (set(), True), ({"calico"}, False)])
def test_who_enforces_no_policies_says_so_once(
    stack: Stack, features: set[str], says: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Policies that the API accepts and nothing enforces."""
    access.write(stack, OUTPUTS)
    access.show(replace(stack, features=frozenset(features)), OUTPUTS)
    assert capfd.readouterr().out.count("NetworkPolicies are not enforced here: docs/calico.md") == says


def test_what_is_read_is_what_was_written(stack: Stack) -> None:
    with pytest.raises(ToolchainError, match="The lab dev is not up"):
        access.read(stack)
    access.write(stack, OUTPUTS)
    assert access.read(stack) == {fact: OUTPUTS[fact] for fact in ("endpoint", "machines", "certificates")}


def test_a_missing_output_is_named(stack: Stack) -> None:
    with pytest.raises(ToolchainError, match="no output certificates, endpoint, kubeconfig, machines, ssh_private_key"):
        access.write(stack, {"ssh_config": ""})


def test_a_kubectl_that_is_not_in_the_mirror_is_reported(stack: Stack) -> None:
    for file in paths.mirror().rglob("kubectl"):
        file.unlink()
    with pytest.raises(ToolchainError, match=rf"kubectl {VERSION} is not in the mirror.*/hardway setup"):
        access.write(stack, OUTPUTS)


def test_a_lab_that_is_not_up_cannot_be_reached(stack: Stack) -> None:
    not_up = r"lab dev is not up.*/hardway up -s dev"
    with pytest.raises(ToolchainError, match=not_up):
        access.kubectl(stack, ["get"])
    with pytest.raises(ToolchainError, match=not_up):
        access.ssh(stack, "worker-1", None)
    access.write(stack, OUTPUTS)
    access.remove(stack)
    assert not stack.directory.exists()
    access.remove(stack)


def test_snapshots_outlive_their_lab(stack: Stack) -> None:
    access.write(stack, OUTPUTS)
    snapshot = stack.directory / "snapshots" / "dev.db"
    snapshot.parent.mkdir()
    snapshot.touch()
    access.remove(stack)
    assert [file for file in stack.directory.rglob("*") if file.is_file()] == [snapshot]


def test_ssh_knows_the_labs_machines(stack: Stack) -> None:
    access.write(stack, OUTPUTS)
    with pytest.raises(ToolchainError, match="must be one of worker-1, w1, controller-1"):
        access.ssh(stack, "", None)


@pytest.mark.parametrize("domain", ["", "api.hardway.example"])
def test_a_domain_without_a_dns_record(stack: Stack, domain: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The line for /etc/hosts, with the address of the endpoint."""
    access.write(stack, OUTPUTS)
    access.show(replace(stack, domain=domain), OUTPUTS)
    assert ("hosts line  10.0.0.1 api.hardway.example " in capfd.readouterr().out) == bool(domain)
