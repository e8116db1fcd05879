"""`pki export` from a state: which file has what, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_lab import cluster, own_backend

from live import pki_export
from live.cluster import Cluster
from toolchain import paths
from toolchain.errors import ToolchainError

_SIGNED, _SELF, _KEY = (
    f"tls:index/{name}"
    for name in ("locallySignedCert:LocallySignedCert", "selfSignedCert:SelfSignedCert", "privateKey:PrivateKey")
)


def resource(type_: str, name: str, **outputs: Any) -> dict[str, Any]:
    return {"urn": f"urn:pulumi:dev::hardway::{type_}::{name}", "type": type_, "outputs": outputs}


def secret(text: str) -> dict[str, str]:
    return {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "plaintext": json.dumps(text)}


def key(name: str) -> dict[str, Any]:
    return resource(_KEY, name, privateKeyPem=secret(f"key of {name}"), publicKeyPem=f"public {name}")


def state(*more: dict[str, Any]) -> dict[str, Any]:
    """A lab with one worker, whose leaves were rotated once."""
    resources = [
        resource("pulumi:pulumi:Stack", "hardway-dev", kubeconfig=secret("the admin's")),
        resource("hardway:index:Pki", "dev-pki"),
        key("dev-ssh"),
        key("dev-pki-kubernetes-ca"),
        resource(_SELF, "dev-pki-kubernetes-ca", certPem="the CA"),
        key("dev-pki-kubelet-worker-0-rotated-1"),
        resource(_SIGNED, "dev-pki-kubelet-worker-0", certPem="of worker-0"),
        key("dev-pki-service-accounts"),
        *more,
    ]
    return {"deployment": {"resources": resources}}


def test_each_file_has_its_place() -> None:
    """The SSH key among them; a rotated key under another name than its certificate."""
    assert pki_export.files_of(state()) == {
        "pki/ca/ca.pem": "the CA",
        "pki/ca/ca-key.pem": "key of dev-pki-kubernetes-ca",
        "pki/clients/worker-0.pem": "of worker-0",
        "pki/clients/worker-0-key.pem": "key of dev-pki-kubelet-worker-0-rotated-1",
        "pki/service-account/service-account.pem": "public dev-pki-service-accounts",
        "pki/service-account/service-account-key.pem": "key of dev-pki-service-accounts",
        "configs/admin/admin.kubeconfig": "the admin's",
    }


def test_keys_in_rotation_are_refused() -> None:
    """Two CAs, one of which would be missing."""
    with pytest.raises(ToolchainError, match="two keys are in use for dev-pki-kubernetes-ca"):
        pki_export.files_of(state(key("dev-pki-kubernetes-ca-rotated-1")))


def test_a_state_without_a_lab_is_refused() -> None:
    with pytest.raises(ToolchainError, match="has no certificates"):
        pki_export.files_of({"deployment": {"resources": []}})
    with pytest.raises(ToolchainError, match="has no certificates"):
        pki_export.files_of({})


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    own_backend(tmp_path, monkeypatch)
    return cluster(tmp_path, controllers=1)


def test_nothing_is_overwritten_and_nothing_is_left_half(
    lab: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a user in the directory; a directory with some of the files."""
    monkeypatch.setattr(pki_export, "state_of", lambda stack: state())
    target = tmp_path / "copy"
    target.mkdir()
    (target / "mine").write_text("x")
    with pytest.raises(ToolchainError, match="exists"):
        pki_export.export(lab.stack, target)
    assert [file.name for file in target.iterdir()] == ["mine"]
    with pytest.raises(ToolchainError, match="is no directory"):
        pki_export.export(lab.stack, tmp_path / "nowhere" / "copy")
    other = tmp_path / "other"
    monkeypatch.setattr(pki_export, "state_of", lambda stack: {})
    with pytest.raises(ToolchainError):
        pki_export.export(lab.stack, other)
    assert not other.exists() and not list(tmp_path.glob(".other-*"))
    monkeypatch.setattr(pki_export, "state_of", lambda stack: state())
    written = pki_export.export(lab.stack, other)
    assert "pki/ca/ca-key.pem" in written
    assert {path.stat().st_mode & 0o077 for path in (other, *other.rglob("*"))} == {0}
