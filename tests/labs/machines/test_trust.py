"""First contact: keys are shown and pinned by an act of its own, and nothing connects before."""

import pytest

from config import trust
from lab.commands import toolchain
from labs.machines.conftest import HOSTS, STACK
from labs.machines.own_hosts import OwnHost, OwnHosts


@pytest.mark.usefixtures("before", "password")
def test_hosts_without_pinned_keys_are_refused(hosts: OwnHosts) -> None:
    """A connection to the first host that answers."""
    up = toolchain("up", stack=STACK)
    assert up.code != 0
    for host in HOSTS[:4]:
        assert host.name in up.output
    assert up.output.count("its host key is not pinned yet: `./hardway trust` shows and pins it") >= 4, up.output
    assert "nothing was changed" in up.output


def test_trust_pins_what_the_hosts_have(trusted: OwnHosts) -> None:
    """A pinned key that is none of the host's, or a host that is left out."""
    pinned = trust.read(STACK)
    for host in HOSTS:
        files = trusted.bash(host, "cat /etc/ssh/ssh_host_*_key.pub").splitlines()
        assert {" ".join(line.split()[:2]) for line in files} == set(pinned[trust.name_of(host.address, host.port)])
    again = toolchain("trust", stack=STACK)
    assert again.code == 0 and again.output.count("as pinned") == len(HOSTS), again.output


def test_a_key_that_changed_is_refused_and_stays_pinned(trusted: OwnHosts) -> None:
    """Another machine at the same address that is taken for the one that was trusted."""
    host = HOSTS[0]
    kept = trust.file_of(STACK).read_text()
    with _another_key(trusted, host):
        again = toolchain("trust", stack=STACK)
        up = toolchain("up", stack=STACK)
    assert again.code != 0 and "CHANGED" in again.output, again.output
    assert "shows another key than the pinned one; that stays pinned" in again.output
    assert trust.file_of(STACK).read_text() == kept
    assert up.code != 0
    assert f"root@{host.address} has another host key than the pinned one" in up.output, up.output


class _another_key:  # noqa: N801
    """A host with another Ed25519, ECDSA and RSA key, for a while."""

    def __init__(self, hosts: OwnHosts, host: OwnHost) -> None:
        self._hosts, self._host = hosts, host

    def __enter__(self) -> None:
        self._hosts.bash(
            self._host,
            "mkdir /etc/ssh/kept && mv /etc/ssh/ssh_host_* /etc/ssh/kept && ssh-keygen -q -A && systemctl restart ssh",
        )

    def __exit__(self, *error: object) -> None:
        self._hosts.bash(
            self._host,
            "rm /etc/ssh/ssh_host_* && mv /etc/ssh/kept/* /etc/ssh && rmdir /etc/ssh/kept && systemctl restart ssh",
        )
