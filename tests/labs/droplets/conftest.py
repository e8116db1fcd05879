"""The lab `droplets-test`: lab 3, on three hosts that are there before it and after it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lab import session
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.fixtures import show
from lab.session import Show
from labs.machines.fixtures import before, hosts
from labs.machines.own_hosts import OwnHost, OwnHosts, Segment
from labs.machines.own_workload import OwnWorkload

__all__ = ["before", "hosts", "show"]

STACK = "droplets-test"
# As Pulumi.droplets-test.yaml has them.
SEGMENT = Segment(name="hw-drop", range="10.251.0.0/24")
HOSTS = tuple(
    OwnHost(number=number, name=name, segment=SEGMENT)
    for number, name in enumerate(("controller-0", "worker-0", "load-balancer-0"), 1)
)
_ORDER = ("test_lab_three", "test_destroy")


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
