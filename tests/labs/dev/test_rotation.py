"""Certificates and keys of a running lab: what `certs` says of them, and their rotation.

HARDWAY_KILLS says how many rotations are killed (20), HARDWAY_SEED at which moments (others every time).
"""

import base64
import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.rotations import SUBJECTS
from lab import tls
from lab.cluster import Cluster
from lab.commands import SETTINGS, Started, toolchain
from lab.kills import SEED, Killed, Killer
from lab.polling import eventually
from lab.session import Show

# How many kills.
KILLS = int(os.environ.get("HARDWAY_KILLS", "20"))
_IN_A_ROW = 4
# Three stages took more than ten minutes on two cores with a load of 25.
_SECONDS = 20 * 60
_PKI = "/etc/kubernetes/pki"
_KUBELET = "/var/lib/kubelet/pki"
_LEGACY = {
    "apiVersion": "v1",
    "kind": "Secret",
    "type": "kubernetes.io/service-account-token",
    "metadata": {
        "name": "rotation-token",
        "namespace": "default",
        "annotations": {"kubernetes.io/service-account.name": "default"},
    },
}
_SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "rotation", "namespace": "default"},
    "stringData": {"word": "kept"},
}


def certs() -> tuple[int, list[dict[str, Any]]]:
    """The exit code of `certs`, and its rows."""
    ran = toolchain("certs", "--json")
    said, _ = json.JSONDecoder().raw_decode(ran.output, ran.output.index("{"))
    assert said["not_asked"] == {}, ran.output
    return ran.code, said["certificates"]


def test_a_certificate_that_somebody_changed_is_named(cluster: Cluster) -> None:
    """A list that comes from the state alone, or from the machines alone."""
    assert certs()[0] == 0
    worker = cluster.workers[0].name
    cluster.ssh(worker, f"cp {_KUBELET}/ca.crt {_KUBELET}/kubelet.crt")
    code, rows = certs()
    wrong = [(row["machine"], row["file"], row["used_by"]) for row in rows if row["difference"]]
    assert (code, wrong) == (1, [(worker, f"{_KUBELET}/kubelet.crt", ["kubelet.service"])])
    repaired = toolchain("repair")
    assert repaired.code == 0, repaired.output
    assert certs()[0] == 0


def status_of(cluster: Cluster, token: str) -> int:
    """How the API answers a token."""
    url = f"https://{cluster.balancer.address}:6443/api"
    return tls.fetch(url, tls.anyone(), token)[0]


def legacy_token(cluster: Cluster) -> str:
    """The token in the Secret; empty until there is one."""
    secret = cluster.get("--namespace", "default", "secret", "rotation-token")
    return base64.b64decode(secret.get("data", {}).get("token", "")).decode()


def key_ids(cluster: Cluster) -> dict[tuple[str, str, str], str]:
    """(machine, file, field) -> which certificate is there."""
    return {(row["machine"], row["file"], row["field"]): row["fingerprint"] for row in certs()[1]}


def logins(cluster: Cluster, key: Path) -> set[int]:
    """How an ssh with a key ends, over all machines."""
    directory = cluster.directory
    ssh = [
        "ssh",
        "-F",
        str(directory / "ssh_config"),
        "-i",
        str(key),
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentityAgent=none",
    ]
    return {
        subprocess.run([*ssh, each.name, "true"], capture_output=True, check=False, timeout=60).returncode
        for each in cluster.machines
    }


@pytest.mark.long
def test_every_key_is_rotated_and_the_old_ones_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    """A rotation that keeps a key, that still accepts an old one, or that loses what the old one encrypted."""
    cluster.apply(_LEGACY, _SECRET)
    old_legacy = eventually("a token in the Secret", lambda: legacy_token(cluster), seconds=30)
    old_token = cluster.kubectl("create", "token", "default").strip()
    assert [status_of(cluster, each) for each in (old_legacy, old_token)] == [200, 200]
    user = yaml.safe_load((cluster.directory / "kubeconfig").read_text())["users"][0]["user"]
    old_admin, old_etcd = tmp_path / "admin.pem", tmp_path / "etcd.pem"
    for file in (old_admin, old_etcd):
        file.touch(mode=0o600)
    pem = b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
    old_admin.write_bytes(pem)
    at = f"{_PKI}/apiserver-etcd-client"
    old_etcd.write_text(cluster.ssh(cluster.controller.name, f"cat {at}.crt {at}.key"))
    etcd = f"https://{cluster.controller.address}:2379/health"
    assert tls.fetch(etcd, tls.with_certificate(old_etcd))[0] == 200
    before = key_ids(cluster)
    old_ssh = tmp_path / "ssh_key"
    old_ssh.touch(mode=0o600)
    old_ssh.write_bytes((cluster.directory / "ssh_key").read_bytes())
    assert logins(cluster, old_ssh) == {0}

    rotated = toolchain("rotate", *SUBJECTS)
    assert rotated.code == 0, rotated.output

    after = key_ids(cluster)
    assert before.keys() == after.keys()
    assert not {place for place in before if before[place] == after[place]}
    assert [status_of(cluster, each) for each in (old_legacy, old_token)] == [401, 401]
    assert status_of(cluster, legacy_token(cluster)) == 200
    url = f"https://{cluster.balancer.address}:6443/api"
    assert tls.fetch(url, tls.with_certificate(old_admin))[0] == 401
    assert tls.refusal(lambda: tls.fetch(etcd, tls.with_certificate(old_etcd)))
    assert logins(cluster, old_ssh) == {255}
    secret = cluster.get("--namespace", "default", "secret", "rotation")
    assert base64.b64decode(secret["data"]["word"]) == b"kept"
    encryption = cluster.ssh(cluster.controller.name, "cat /etc/kubernetes/config/encryption.yaml")
    assert {key["name"] for key in yaml.safe_load(encryption)["resources"][0]["providers"][0]["secretbox"]["keys"]} == {
        "key-1.1"
    }
    assert len({row["issuer_key"] for row in certs()[1] if row["subject"].endswith("CN=kubernetes-ca")}) == 1
    # The record of the Pulumi host has the lab's first key, which opens no machine now.
    for command in ("stop", "start", "drift", "status"):
        said = toolchain(command)
        assert said.code == 0, said.output
    up = toolchain("up")
    assert up.code == 0 and up.summary.keys() == {"unchanged"}, up.output


@pytest.mark.long
def test_a_rotation_that_is_killed_is_finished_by_the_next_run(cluster: Cluster, show: Show) -> None:
    """A stage that is half done, a lock or a record that stays: a lab that needs a hand, or two CAs for ever.

    A rotation is killed up to four times in a row; the run after that has to finish it."""
    killer = Killer(chance=random.Random(SEED), seconds={"rotate": 30.0})
    show(f"\n{KILLS} kills, HARDWAY_SEED={SEED}\n")
    failures: list[str] = []
    killed: list[Killed] = []
    while len(killed) < KILLS:
        before, started = len(killed), time.monotonic()
        end = "finished"
        try:
            ended = killer.kill_in_a_row(
                "rotate",
                # By its names, since a run that was killed early has not begun.
                lambda: Started("rotate", "ca", "ssh"),
                killed.append,
                most=min(_IN_A_ROW, KILLS - before),
                seconds=_SECONDS,
            )
            assert ended.code == 0, ended.output
            _check_rotated(cluster)
        except AssertionError as error:
            end = f"FAILED: {error}"
            failures.append(f"kills {before + 1} to {len(killed)}")
        for each in killed[before:]:
            show(f"  killed after {each.after:6.1f} s, {each.done:4} done | {each.last[:60]}\n")
        show(f"{len(killed)} of {KILLS} kills, after {time.monotonic() - started:.1f} s: {end}\n")
    show(f"{len(failures)} rotations not finished, HARDWAY_SEED={SEED}\n")
    assert not failures, "\n".join(failures)
    up = toolchain("up")
    assert up.code == 0 and up.summary.keys() == {"unchanged"}, up.output


def _check_rotated(cluster: Cluster) -> None:
    """Assert that a lab has one CA, and works."""
    code, rows = certs()
    assert code == 0, [row for row in rows if row["difference"]]
    assert len({row["issuer_key"] for row in rows if row["subject"].endswith("CN=kubernetes-ca")}) == 1
    eventually(
        "a healthy lab",
        lambda: toolchain("status").code == 0,
        seconds=30 * cluster.settings.settings.timeout_factor,
        report=lambda: toolchain("status").output,
    )


@pytest.mark.long
def test_a_rotation_while_a_machine_is_down_is_refused(cluster: Cluster) -> None:
    """A stage that restarts one part of a lab and waits for the other."""
    worker = cluster.workers[0].name
    settings = SETTINGS.read_bytes()
    cluster.ssh(worker, "systemctl stop kubelet.service")
    try:
        refused = toolchain("rotate", "leaves")
        assert refused.code == 1, refused.output
        assert "nothing was changed" in refused.output and f"kubelet.service on {worker}" in refused.output
    finally:
        cluster.ssh(worker, "systemctl start kubelet.service")
    assert SETTINGS.read_bytes() == settings
