"""`hardway kubeconfig --merge`, and what `destroy` removes of it: the lab's entries and nothing else of the user's."""

import base64
import os
import stat
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from cli import main as commands
from components.kubeconfigs import render
from toolchain import kubeconfig, operations, paths, prepare
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

THEIRS = """\
apiVersion: v1
kind: Config
preferences: {colors: true}
clusters:
- cluster: {server: "https://elsewhere.example", insecure-skip-tls-verify: true}
  name: "2026-01-01"
- cluster: {server: https://kind.example}
  name: kind-dev
users:
- name: somebody
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: aws, args: ["0755", 'yes', ~]}
contexts:
- context: {cluster: 2026-01-01, user: somebody, namespace: on}
  name: elsewhere
current-context: elsewhere
extensions:
- name: their-own
"""


@cache
def authority(name: str) -> tuple[Ed25519PrivateKey, x509.Certificate]:
    key = Ed25519PrivateKey.generate()
    return key, certificate(name, key, name, key)


def certificate(name: str, key: Ed25519PrivateKey, issuer: str, signer: Ed25519PrivateKey) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(signer, None)
    )


def written(ca: str = "this lab") -> str:
    """The kubeconfig of a lab with a CA of this name, with a new client certificate."""
    key, certificate_of_ca = authority(ca)
    client = certificate("admin", Ed25519PrivateKey.generate(), ca, key)
    return render(
        cluster="hardway",
        server="https://10.0.0.1:6443",
        ca_certificate=certificate_of_ca.public_bytes(Encoding.PEM).decode(),
        user="admin",
        certificate=client.public_bytes(Encoding.PEM).decode(),
        key="the key",
    )


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A running lab."""
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(kubeconfig, "_LOCK_SECONDS", 0.3)
    (tmp_path / "home").mkdir()
    (tmp_path / "Pulumi.yaml").write_text("name: toy\n")
    (tmp_path / "Pulumi.dev.yaml").write_text("config: {}\n")
    (tmp_path / ".state" / "dev").mkdir(parents=True)
    (tmp_path / ".state" / "dev" / "kubeconfig").write_text(written())
    return Stack(
        name="dev",
        project="toy",
        settings_file=tmp_path / "Pulumi.dev.yaml",
        substrate="containers",
        engine="podman",
        kubernetes="1.36.4",
    )


@pytest.fixture
def file(tmp_path: Path, lab: Stack) -> Path:
    """The user's file, with other clusters."""
    file = tmp_path / "home" / ".kube" / "config"
    file.parent.mkdir()
    file.write_text(THEIRS)
    file.chmod(0o640)
    return file


def destroy(lab: Stack) -> list[str]:
    """What a destroy does with the files, once the machines are gone."""
    return kubeconfig.forget(lab, kubeconfig.entries(lab))


def without_the_lab(text: str) -> Any:
    document = yaml.safe_load(text)
    for kind in ("clusters", "users", "contexts"):
        document[kind] = [entry for entry in document[kind] if entry["name"] != "hardway-dev"]
    return document | {"current-context": "elsewhere"}


def test_nothing_of_the_users_is_lost(lab: Stack, file: Path) -> None:
    """Values of YAML that look like others, as a date and `yes`, stay what they are."""
    assert kubeconfig.merge(lab) == file
    merged = file.read_text()
    assert without_the_lab(merged) == yaml.safe_load(THEIRS)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["config"], "no draft, no lock"
    document, own = yaml.safe_load(merged), yaml.safe_load((lab.directory / "kubeconfig").read_text())
    assert document["current-context"] == "hardway-dev"
    assert document["clusters"][-1] == {"name": "hardway-dev", "cluster": own["clusters"][0]["cluster"]}
    assert document["users"][-1] == {"name": "hardway-dev", "user": own["users"][0]["user"]}
    assert document["contexts"][-1]["context"] == {"cluster": "hardway-dev", "user": "hardway-dev"}
    kubeconfig.merge(lab)
    assert file.read_text() == merged
    assert destroy(lab) == []
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(THEIRS) | {"current-context": ""}


COMMENTED = """\
# My clusters.
apiVersion: v1
kind: Config

clusters:   # at work
  # the old one
  - name: old
    cluster:
      server: https://old.example   # until May
      certificate-authority-data: |
        AAAA
        BBBB
  # the end of the list
users:
- name: me
  user: {token: "x"}
# no more users
contexts:
- context:
    cluster: old
    user: me
  name: old

current-context: old
# The end.
"""


def test_comments_and_spelling_stay(lab: Stack, file: Path) -> None:
    file.write_text(COMMENTED)
    kubeconfig.merge(lab)
    merged = file.read_text()
    # Nothing but lines of the lab's is added, and one line is changed.
    assert [line for line in COMMENTED.splitlines() if line not in merged.splitlines()] == ["current-context: old"]
    document = yaml.safe_load(merged)
    assert [[entry["name"] for entry in document[kind]] for kind in ("clusters", "users", "contexts")] == [
        ["old", "hardway-dev"],
        ["me", "hardway-dev"],
        ["old", "hardway-dev"],
    ]
    kubeconfig.merge(lab)
    assert file.read_text() == merged
    assert destroy(lab) == []
    assert file.read_text() == COMMENTED.replace("current-context: old", "current-context: ''")


@pytest.mark.parametrize(
    "text",
    [
        '{"clusters": [{"name": "a", "cluster": {}}], "users": [], "contexts": null, "current-context": "a"}',
        "clusters: [{name: a, cluster: {}}]\nusers:\n-\n  name: a\n  user: &u {}\n- {name: b, user: *u}\n",
        "clusters:\n- name: a\n  cluster:\n    server: >-\n      x\nusers: # none\ncontexts: []",
        "---\nclusters:\n- name: a\n  cluster:\n    server: |\n      x\n\n\n...\n",
    ],
)
def test_any_form_of_yaml_keeps_what_it_says(lab: Stack, file: Path, text: str) -> None:
    file.write_text(text)
    kubeconfig.merge(lab)
    before, merged = yaml.safe_load(text), yaml.safe_load(file.read_text())
    for kind in ("clusters", "users", "contexts"):
        assert merged[kind][:-1] == (before.get(kind) or [])
        assert merged[kind][-1]["name"] == "hardway-dev"
    assert destroy(lab) == []
    after = yaml.safe_load(file.read_text())
    assert {kind: after[kind] or [] for kind in ("clusters", "users", "contexts")} == {
        kind: before.get(kind) or [] for kind in ("clusters", "users", "contexts")
    }


def test_renewed_certificates_replace_the_lab_s_own(lab: Stack, file: Path) -> None:
    kubeconfig.merge(lab)
    (lab.directory / "kubeconfig").write_text(written())
    kubeconfig.merge(lab)
    new = yaml.safe_load((lab.directory / "kubeconfig").read_text())["users"][0]["user"]
    users = [user for user in yaml.safe_load(file.read_text())["users"] if user["name"] == "hardway-dev"]
    assert [user["user"] for user in users] == [new]
    # Renewed once more, and not merged: the entry is still the lab's, by its CA.
    (lab.directory / "kubeconfig").write_text(written())
    assert destroy(lab) == []
    assert "hardway-dev" not in file.read_text()


@pytest.mark.parametrize(
    ("one", "change"),
    [
        ("cluster", lambda entry: entry["cluster"].pop("certificate-authority-data")),
        ("user", lambda entry: entry.update(user={"token": "theirs"})),
        ("context", lambda entry: entry["context"].update(user="somebody")),
    ],
)
def test_an_entry_of_this_name_that_is_not_the_lab_s_stays(
    lab: Stack, file: Path, one: str, change: Callable[[Any], Any]
) -> None:
    kubeconfig.merge(lab)
    document = yaml.safe_load(file.read_text())
    changed = next(entry for entry in document[f"{one}s"] if entry["name"] == "hardway-dev")
    change(changed)
    file.write_text(yaml.safe_dump(document))
    before = file.read_text()
    with pytest.raises(ToolchainError, match=rf"another cluster's {one}\..*delete-{one} hardway-dev"):
        kubeconfig.merge(lab)
    assert file.read_text() == before
    assert destroy(lab) == []
    left = yaml.safe_load(file.read_text())
    assert changed in left[f"{one}s"]
    others = {"cluster", "user"} - {one}
    assert all("hardway-dev" not in [entry["name"] for entry in left[f"{other}s"]] for other in others)


def test_another_lab_of_this_name_is_kept(lab: Stack, file: Path) -> None:
    """Of another checkout, or an earlier one of this."""
    kubeconfig.merge(lab)
    (lab.directory / "kubeconfig").write_text(written("another lab"))
    before = file.read_text()
    with pytest.raises(ToolchainError, match="another cluster's cluster and user"):
        kubeconfig.merge(lab)
    assert destroy(lab) == []
    assert file.read_text() == before


def test_a_file_that_is_not_there_is_made_for_the_user_alone(lab: Stack, tmp_path: Path) -> None:
    file = kubeconfig.merge(lab)
    assert file == tmp_path / "home" / ".kube" / "config"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(kubeconfig.text(lab))


def test_root_leaves_the_file_to_its_user(lab: Stack, file: Path, tmp_path: Path) -> None:
    os.chown(file, 47110, 47111)
    kubeconfig.merge(lab)
    assert (file.stat().st_uid, file.stat().st_gid) == (47110, 47111)
    file.unlink()
    os.chown(file.parent, 47110, 47111)
    kubeconfig.merge(lab)
    assert (file.stat().st_uid, file.stat().st_gid) == (47110, 47111)


def test_the_file_is_the_one_that_kubectl_writes_to(
    lab: Stack, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of KUBECONFIG that exists; a link stays one."""
    link = tmp_path / "link"
    link.symlink_to(file)
    monkeypatch.setenv("KUBECONFIG", f":{tmp_path}/absent:{link}:{tmp_path}/last")
    assert kubeconfig.merge(lab) == file
    assert link.is_symlink()
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/absent:{tmp_path}/last")
    assert kubeconfig.merge(lab) == tmp_path / "last"
    # The record knows both, whatever KUBECONFIG is now.
    monkeypatch.delenv("KUBECONFIG")
    assert destroy(lab) == []
    assert "hardway-dev" not in file.read_text() + (tmp_path / "last").read_text()


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", "clusters: {}\n", "\x00"])
def test_what_is_no_kubeconfig_is_left_alone(lab: Stack, file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ToolchainError, match="is no"):
        kubeconfig.merge(lab)
    assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == ["config"]


@pytest.mark.parametrize("text", ["", "clusters: null\nusers: []\n", "{}"])
def test_an_empty_file_is_filled(lab: Stack, file: Path, text: str) -> None:
    file.write_text(text)
    kubeconfig.merge(lab)
    merged = yaml.safe_load(file.read_text())
    assert [[entry["name"] for entry in merged[kind]] for kind in ("clusters", "users", "contexts")] == [
        ["hardway-dev"]
    ] * 3


def test_the_lock_is_that_of_kubectl(lab: Stack, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = file.with_name("config.lock")
    lock.touch()
    with pytest.raises(ToolchainError, match=r"config.lock exists"):
        kubeconfig.merge(lab)
    assert (file.read_text(), lock.exists()) == (THEIRS, True)
    monkeypatch.setattr(kubeconfig, "_LOCK_SECONDS", 60.0)
    waits = threading.Event()

    def sleep(_: float) -> None:
        waits.set()
        threading.Event().wait(0.01)

    monkeypatch.setattr("toolchain.kubeconfig.time.sleep", sleep)
    merging = threading.Thread(target=kubeconfig.merge, args=(lab,))
    merging.start()
    assert waits.wait(30)
    assert file.read_text() == THEIRS
    lock.unlink()
    merging.join(30)
    assert "hardway-dev" in file.read_text()
    assert not lock.exists()


def test_a_write_that_fails_leaves_the_file_whole(lab: Stack, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        kubeconfig.merge(lab)
    assert file.read_text() == THEIRS
    assert [path.name for path in file.parent.iterdir()] == ["config"]


def test_destroy_ends_also_where_the_file_cannot_be_changed(
    lab: Stack, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prepare, "everything", lambda *_: None)
    monkeypatch.setattr(operations, "destroy", lambda *_: 0)
    assert commands.main(["kubeconfig", "--merge"]) == 0
    assert capsys.readouterr().out.startswith(f"The context hardway-dev is in {file}")
    file.write_text("a: [\n")
    assert commands.main(["destroy"]) == 0
    assert f"The entries hardway-dev stay in {file}: {file} is not valid YAML" in capsys.readouterr().err
    assert not lab.directory.exists()


def test_the_command_prints_what_kubectl_reads(lab: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["kubeconfig"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    own = yaml.safe_load((lab.directory / "kubeconfig").read_text())
    assert printed["current-context"] == printed["contexts"][0]["name"] == "hardway-dev"
    assert printed["clusters"][0]["cluster"] == own["clusters"][0]["cluster"]
    assert base64.b64decode(printed["users"][0]["user"]["client-key-data"]) == b"the key"
    (lab.directory / "kubeconfig").write_text("")
    assert commands.main(["kubeconfig"]) == 1
    assert "kubeconfig is damaged: `hardway up -s dev` writes it again." in capsys.readouterr().err
