"""Hosts of a lab that was upgraded, and whose keys were all replaced, are what they were once it is destroyed.

By then the lab of the other tests is gone from the hosts.
"""

import pytest

from lab import session
from lab.commands import Started, resources, toolchain
from lab.session import Show
from lab.settings_file import lab_settings
from lab.upgrades import NEW, OLD, upgrade, versions
from labs.machines.as_before import check_as_before
from labs.machines.conftest import HOSTS, STACK, settings
from labs.machines.own_hosts import OwnHost, OwnHosts

_SUBJECTS = ("encryption-key", "service-accounts", "leaves", "ca", "etcd-ca", "front-proxy-ca", "ssh")


@pytest.mark.long
def test_hosts_of_an_upgraded_and_rotated_lab_are_what_they_were(
    trusted: OwnHosts, before: dict[OwnHost, set[str]], password: None, show: Show
) -> None:
    # Where only the long tests run, none before this one has destroyed it.
    gone = toolchain("destroy", stack=STACK)
    assert gone.code == 0, gone.output
    with lab_settings(STACK, versions={"kubernetes": OLD}):
        # Where releases cannot be reached, it builds the version: ten minutes and more.
        ready = Started("setup", show=show, stack=STACK).wait(60 * 60)
        assert ready.code == 0, ready.output
        session.made(settings(), show)
        upgraded = upgrade(STACK, NEW, show=show)
        assert upgraded.code == 0, upgraded.output
        assert versions(STACK) == {NEW}
        rotated = Started("rotate", *_SUBJECTS, show=show, stack=STACK).wait(20 * 60)
        assert rotated.code == 0, rotated.output
        destroyed = toolchain("destroy", stack=STACK)
        assert destroyed.code == 0, destroyed.output
        assert resources(stack=STACK) == []
    check_as_before(trusted, before, HOSTS, show)
