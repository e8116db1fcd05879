"""The lab `droplets-test`: lab 3, on three hosts that are there before it and after it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import session
from lab.cluster import Cluster
from lab.commands import CHECKOUT, toolchain
from lab.fixtures import show
from lab.session import Show
from labs.machines.own_hosts import OwnHost, OwnHosts, Segment
from labs.machines.own_stack import users_hosts
from labs.machines.own_workload import OwnWorkload

__all__ = ["show"]

STACK = "droplets-test"
# As Pulumi.droplets-test.yaml has them.
SEGMENT = Segment(name="hw-drop", range="10.251.0.0/24")
HOSTS = tuple(
    OwnHost(number=number, name=name, segment=SEGMENT)
    for number, name in enumerate(("controller-0", "worker-0", "load-balancer-0"), 1)
)
KEY = CHECKOUT / ".state" / f"{STACK}.key"
_ORDER = ("test_lab_three", "test_destroy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def hosts() -> Iterator[OwnHosts]:
    """The user's hosts."""
    with users_hosts(STACK, HOSTS, KEY) as made:
        yield made


@pytest.fixture(scope="session")
def before(hosts: OwnHosts) -> dict[OwnHost, set[str]]:
    """What was on each host before anybody did anything to it."""
    return {host: hosts.listing(host) for host in HOSTS}


@pytest.fixture(scope="session")
def cluster(hosts: OwnHosts, before: dict[OwnHost, set[str]], show: Show) -> Cluster:
    """The lab, up."""
    done = toolchain("trust", stack=STACK)
    assert done.code == 0, done.output
    return session.made(session.settings_of(STACK), show)


@pytest.fixture(scope="session")
def workload(cluster: Cluster) -> OwnWorkload:
    """Pods on it, ready."""
    made = OwnWorkload(cluster=cluster, hosts=HOSTS)
    made.start()
    return made
