"""The lab `own-test`: on hosts that are there before it and after it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from components.substrates.existing.reach import SSH_PASSWORD
from config import lab as config
from lab import session
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.fixtures import show
from lab.session import Show
from labs.machines.fixtures import before, hosts
from labs.machines.own_hosts import PASSWORD, OwnHost, OwnHosts
from labs.machines.own_stack import key_of

__all__ = ["before", "hosts", "show"]

STACK = "own-test"
# As Pulumi.own-test.yaml has them; the jumpbox is none of the lab's machines.
JUMPBOX = OwnHost(number=9, name="jumpbox")
CONTROLLER = OwnHost(number=1, name="controller-0")
SUDOER = OwnHost(number=2, name="worker-0", user="admin")
BEHIND = OwnHost(number=3, name="worker-1", only_from=JUMPBOX.address)
BALANCER = OwnHost(number=4, name="load-balancer-0", port=2222)
HOSTS = (CONTROLLER, SUDOER, BEHIND, BALANCER, JUMPBOX)
KEY = key_of(STACK)
_ORDER = ("test_entry", "test_trust", "test_bad_input", "test_preflight", "test_lab", "test_destroy", "test_upgraded")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK


@pytest.fixture(scope="session")
def users() -> Sequence[OwnHost]:
    """The hosts before they exist."""
    return HOSTS


@pytest.fixture
def password() -> Iterator[None]:
    """The password of those who log in with one, as the user gives it for the first `up`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SSH_PASSWORD, PASSWORD)
        yield


@pytest.fixture(scope="session")
def trusted(hosts: OwnHosts, before: dict[OwnHost, set[str]]) -> OwnHosts:
    """The hosts, once `./hardway trust` has pinned their keys."""
    done = toolchain("trust", stack=STACK)
    assert done.code == 0, done.output
    return hosts


@pytest.fixture(scope="session")
def cluster(trusted: OwnHosts, show: Show) -> Cluster:
    """The lab, up."""
    assert os.geteuid() == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SSH_PASSWORD, PASSWORD)
        return session.made(settings(), show)


def settings() -> config.Lab:
    """What the lab is to be."""
    return session.settings_of(STACK)
