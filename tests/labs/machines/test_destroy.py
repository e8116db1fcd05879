"""After `destroy` every host is what it was before the first command, but for a short list that is known."""

import pytest

from components.substrates.existing.reach import SSH_PASSWORD
from lab.cluster import Cluster
from lab.commands import resources, toolchain
from lab.session import Show
from labs.machines.as_before import check_as_before
from labs.machines.conftest import HOSTS, STACK
from labs.machines.own_hosts import OwnHost, OwnHosts


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
    check_as_before(trusted, before, HOSTS, show)
