"""The lab `kubeadm-test`: made once, used by all tests here, destroyed in the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import lab as config
from lab import footprint, session, test_networking
from lab.cluster import Cluster
from lab.session import Show
from lab.workload import Workload

STACK = "kubeadm-test"
outside = test_networking.outside
_ORDER = ("test_smoke", "test_lab", "test_destroy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def show(request: pytest.FixtureRequest) -> Show:
    """Prints a line at once, although pytest captures what tests print."""
    return session.printer(request.config)


@pytest.fixture(scope="session")
def settings() -> config.Lab:
    """What the lab is to be."""
    return session.settings_of(STACK)


@pytest.fixture(scope="session")
def orphans_before() -> set[str]:
    """The volumes without a container that are not of our making."""
    return footprint.orphans()


@pytest.fixture(scope="session")
def cluster(orphans_before: set[str], show: Show, settings: config.Lab) -> Iterator[Cluster]:
    """The lab, up."""
    with session.empty_stack(STACK, show):
        yield session.made(settings, show)


@pytest.fixture(scope="session")
def workload(cluster: Cluster) -> Workload:
    """Pods on it, ready."""
    made = Workload(cluster=cluster)
    made.start()
    return made
