"""Bad input to the real commands: one clear report, and the hosts as they were (test_destroy compares them)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest

from components.substrates.existing.reach import SSH_PASSWORD
from lab.commands import Ran, toolchain
from lab.settings_file import lab_settings
from labs.machines.conftest import BALANCER, BEHIND, CONTROLLER, STACK, SUDOER
from labs.machines.own_hosts import OwnHost, OwnHosts

pytestmark = pytest.mark.usefixtures("trusted")


def refused() -> Ran:
    """An `up` that must not come to anything."""
    up = toolchain("up", stack=STACK)
    assert up.code != 0, up.output
    assert "nothing was changed" in up.output and "Traceback" not in up.output, up.output
    return up


def test_every_malformed_line_is_reported_at_once(tmp_path: Path) -> None:
    """A report that stops at the first line, or names none."""
    file = tmp_path / "machines.txt"
    file.write_text("10.246.0.999 a.own.internal a -\n\n10.246.0.11 b.own.internal b - port=ssh colour=red\nc\n")
    with lab_settings(STACK, machines={"database": str(file)}):
        said = refused().output
    for line, what in ((1, "no IPv4 address"), (3, "port"), (3, "unknown option colour"), (4, "1 columns")):
        assert any(f"{file}, line {line}: " in each and what in each for each in said.splitlines()), said


def test_a_wrong_key_is_refused(tmp_path: Path) -> None:
    """An error without the host, or what would help."""
    other = tmp_path / "other"
    other.write_text(asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode())
    with lab_settings(STACK, machines={"key": str(other)}):
        said = refused().output
    assert f"root@{CONTROLLER.address} refuses the keys: name a key in lab.machines.key" in said, said


def test_a_wrong_password_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for passwords; one that is printed."""
    monkeypatch.setenv(SSH_PASSWORD, "not the right one")
    said = refused().output
    assert f"admin@{SUDOER.address} refuses the keys and the password" in said, said
    assert "not the right one" not in said


@pytest.mark.usefixtures("password")
def test_a_wrong_password_for_sudo_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that gets half of the way, as a user who may do nothing."""
    monkeypatch.setenv("HARDWAY_SUDO_PASSWORD", "not the right one")
    said = refused().output
    assert f"admin@{SUDOER.address}: sudo refuses the password" in said, said
    assert "not the right one" not in said


@pytest.mark.usefixtures("password")
def test_a_host_that_does_not_answer_is_reported(trusted: OwnHosts) -> None:
    """A wait without end; other hosts' problems that are not told."""
    with silent(trusted, BALANCER):
        said = refused().output
    assert f"root@{BALANCER.address}:{BALANCER.port} does not answer within" in said, said
    assert f"it does not reach {BALANCER.name}" in said, said


@pytest.mark.usefixtures("password")
def test_a_machine_of_another_cluster_is_refused(trusted: OwnHosts) -> None:
    """Somebody's cluster, overwritten."""
    trusted.bash(BEHIND, "mkdir -p /etc/kubernetes && echo theirs >/etc/kubernetes/admin.conf")
    try:
        said = refused().output
        assert trusted.bash(BEHIND, "cat /etc/kubernetes/*; ls /var/lib/hardway 2>&1 || true").startswith("theirs\nls:")
    finally:
        trusted.bash(BEHIND, "rm -r /etc/kubernetes")
    assert "it is part of another cluster already, by /etc/kubernetes" in said, said


@pytest.mark.usefixtures("password")
def test_all_failed_preconditions_are_reported_at_once(trusted: OwnHosts) -> None:
    """One `up` for each problem."""
    trusted.bash(CONTROLLER, "systemd-run -q --unit=taken --socket-property=ListenStream=10257 /bin/cat")
    trusted.bash(SUDOER, "mkdir /var/lib/containerd/theirs && ip route add 10.206.7.0/24 dev lo")
    try:
        said = refused().output
    finally:
        trusted.bash(CONTROLLER, "systemctl stop taken.socket")
        trusted.bash(SUDOER, "rmdir /var/lib/containerd/theirs && ip route del 10.206.7.0/24 dev lo")
    for problem in (
        "ports that the lab needs are in use:",
        "10257   kube-controller-manager      systemd (process 1)",
        "it has a container runtime already: /var/lib/containerd",
        "10.206.0.0/16 (lab.network.pods) overlaps 10.206.7.0/24, a route by lo",
    ):
        assert problem in said, said


@contextmanager
def silent(hosts: OwnHosts, host: OwnHost) -> Iterator[None]:
    """A host that answers nobody, for a while."""
    chain = "nft add chain inet silent input '{ type filter hook input priority 0; policy drop; }'"
    hosts.bash(host, f"nft add table inet silent && {chain}")
    try:
        yield
    finally:
        hosts.bash(host, "nft delete table inet silent")
