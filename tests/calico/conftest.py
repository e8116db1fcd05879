"""The lab `calico-test`: made once, used by all tests here, destroyed in the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import lab as config
from lab import session
from lab.cluster import Cluster
from lab.session import Show
from lab.workload import Workload

STACK = "calico-test"
_ORDER = ("test_network", "test_policies", "test_end")


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
def cluster(show: Show, settings: config.Lab) -> Iterator[Cluster]:
    """The lab, up."""
    with session.empty_stack(settings.name, show):
        yield session.made(settings, show)


@pytest.fixture(scope="session")
def workload(cluster: Cluster) -> Workload:
    """Pods on it, ready."""
    made = Workload(cluster=cluster)
    made.start()
    return made
