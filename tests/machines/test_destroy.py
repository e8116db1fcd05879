"""After `destroy` every host is what it was before the first command, but for a short list that is known."""

import re

import pytest

from hosts.reach import SSH_PASSWORD
from lab.cluster import Cluster
from lab.commands import resources, toolchain
from lab.polling import eventually
from lab.session import Show
from machines.conftest import HOSTS, STACK
from machines.own_hosts import OwnHost, OwnHosts

# What may differ, each with who does that.
_PASSING = {
    r"file: /var/log/": "logs",
    r"file: /run/": "what is gone with the next boot: systemd's, sudo's and daemons' own notes",
    r"file: /var/cache/(apt|debconf|ldconfig)": "apt's and dpkg's caches",
    r"file: /var/lib/apt/(lists|extended_states)": "apt's lists of what there is",
    r"file: /var/lib/dpkg/(status-old|available|triggers|lock)": "dpkg's last backup, and its locks",
    r"file: /var/lib/systemd/(deb-systemd-helper|catalog|random-seed|timers)": "systemd's notes",
    r"file: /etc/(passwd|group|shadow|gshadow|subuid|subgid)- ": "the last backup, made by useradd and userdel",
    r"file: /etc/ld\.so\.cache ": "ldconfig's cache",
    r"file: /var/www": "the page that Debian's nginx leaves when it is purged",
    r"file: /var/lib/haproxy": "the place for its log, which Debian's haproxy leaves when it is purged",
    r"file: /home/admin/\.sudo_as_admin_successful ": "sudo's note that its user has read the lecture",
    r"unit: (network-online\.target|session|user@|user-|run-|systemd-(tmpfiles|hostnamed)|apt|dpkg)": "by itself",
    r"process: ": "sshd and systemd, which come and go",
    r"sysctl: net/netfilter/nf_conntrack_(count|max|buckets)": "a counter; this host's own setting",
}

_PASSING_LINES = re.compile("|".join(_PASSING))
_PROGRAMS = re.compile(r"\+ process: .*(kube|etcd|containerd|haproxy|nginx)")


def test_destroy_needs_no_password(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way out that is closed once the way in is."""
    monkeypatch.delenv(SSH_PASSWORD, raising=False)
    destroy = toolchain("destroy", stack=STACK)
    assert destroy.code == 0, destroy.output
    assert resources(stack=STACK) == []


def test_every_host_is_what_it_was(
    cluster: Cluster, trusted: OwnHosts, before: dict[OwnHost, set[str]], show: Show
) -> None:
    """Whatever a lab, or a test before, leaves behind or takes away."""
    for host in HOSTS:
        # The kernel and systemd take away some time later what nobody uses any more.
        eventually(
            f"{host.name} as it was",
            lambda host=host: not _left(host, trusted, before[host], show),  # type: ignore[misc]
            seconds=60,
            report=lambda host=host: "\n".join(_left(host, trusted, before[host], show)),  # type: ignore[misc]
            pause=2,
        )


def _left(host: OwnHost, hosts: OwnHosts, before: set[str], show: Show) -> list[str]:
    """What differs on a host, and has no known cause."""
    after = hosts.listing(host)
    changed = [*(f"- {line}" for line in before - after), *(f"+ {line}" for line in after - before)]
    mine = sorted(line for line in changed if not _PASSING_LINES.match(line[2:]) or _PROGRAMS.match(line))
    show(f"\n{host.name}: {len(before)} things before, {len(after)} after, {len(changed)} differ, ")
    show(f"{len(mine)} of them not by a known cause")
    return mine
