"""After `destroy` every host is what it was before the first command, but for a short list that is known."""

import pytest

from components.substrates.existing.reach import SSH_PASSWORD
from lab.cluster import Cluster
from lab.commands import resources, toolchain
from lab.polling import eventually
from lab.session import Show
from labs.machines.conftest import HOSTS, STACK
from labs.machines.own_hosts import OwnHost, OwnHosts, side_by_side
from labs.machines.traces import traces


def test_destroy_needs_no_password(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way out that is closed once the way in is."""
    monkeypatch.delenv(SSH_PASSWORD, raising=False)
    destroy = toolchain("destroy", stack=STACK)
    assert destroy.code == 0, destroy.output
    assert resources(stack=STACK) == []


def test_every_host_is_what_it_was(
    cluster: Cluster, trusted: OwnHosts, before: dict[OwnHost, set[str]], show: Show
) -> None:
    """What a lab, or an earlier test, leaves or removes."""

    def is_as_it_was(host: OwnHost) -> None:
        # The kernel and systemd remove unused objects some time later.
        eventually(
            f"{host.name} as it was",
            lambda: not _left(host, trusted, before[host], show),
            seconds=60,
            report=lambda: "\n".join(_left(host, trusted, before[host], show)),
        )

    side_by_side(is_as_it_was, HOSTS)


def _left(host: OwnHost, hosts: OwnHosts, before: set[str], show: Show) -> list[str]:
    """What differs on a host, and has no known cause."""
    after = hosts.listing(host)
    mine = list(traces(before, after))
    show(f"\n{host.name}: {len(before)} things before, {len(after)} after, {len(before ^ after)} differ, ")
    show(f"{len(mine)} of them not by a known cause")
    return mine
