"""The lab `droplets-test`: lab 3, on three hosts that are there before it and after it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import trust
from lab import session
from lab.cluster import Cluster
from lab.commands import CHECKOUT, toolchain
from lab.session import Show
from machines.own_hosts import OwnHost, OwnHosts, Segment
from machines.own_workload import OwnWorkload

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
def show(request: pytest.FixtureRequest) -> Show:
    """Prints a line at once, although pytest captures what tests print."""
    return session.printer(request.config)


@pytest.fixture(scope="session")
def hosts() -> Iterator[OwnHosts]:
    """The user's hosts."""
    KEY.parent.mkdir(exist_ok=True)
    KEY.unlink(missing_ok=True)
    trust.file_of(STACK).unlink(missing_ok=True)
    with OwnHosts(HOSTS, KEY) as made:
        # What an earlier run has left in the state was on hosts that are no more.
        session.forget(STACK)
        yield made
        session.forget(STACK)
    KEY.unlink()
    trust.file_of(STACK).unlink(missing_ok=True)


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
