"""What every folder with a lab of its own needs. Its conftest takes the fixtures from here, and says which `stack`."""

from collections.abc import Iterator

import pytest

from config import lab as config
from lab import footprint, session
from lab.cluster import Cluster
from lab.session import Show
from lab.workload import Workload


@pytest.fixture(scope="session")
def show(request: pytest.FixtureRequest) -> Show:
    """Prints a line at once, although pytest captures what tests print."""
    return session.printer(request.config)


@pytest.fixture(scope="session")
def settings(stack: str) -> config.Lab:
    """What the lab is to be."""
    return session.settings_of(stack)


@pytest.fixture(scope="session")
def orphans_before() -> set[str]:
    """The volumes without a container that are not of our making."""
    return footprint.orphans()


@pytest.fixture(scope="session")
def empty_stack(show: Show, stack: str, orphans_before: set[str]) -> Iterator[None]:
    """No lab at the beginning, whatever an earlier run has left, and none at the end, whatever the tests did."""
    with session.empty_stack(stack, show):
        yield


@pytest.fixture(scope="session")
def cluster(empty_stack: None, show: Show, settings: config.Lab) -> Cluster:
    """The lab, up."""
    return session.made(settings, show)


@pytest.fixture(scope="session")
def workload(cluster: Cluster) -> Workload:
    """Pods on it, ready."""
    made = Workload(cluster=cluster)
    made.start()
    return made
