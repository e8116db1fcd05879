"""The lab `test`: made once, used by all tests here, destroyed in the end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import lab as config
from lab import footprint, session
from lab.cluster import Cluster
from lab.commands import STACK
from lab.session import Show
from lab.workload import Workload

# From the empty stack to the empty stack; what breaks things on purpose comes after what uses them: when the API was
# away, DNS may hear of a new Service only half a minute later.
_ORDER = (
    "test_bad_input",
    "test_interrupted_up",
    "test_idempotence",
    "test_cluster",
    "test_networking",
    "test_access",
    "test_terminating_balancer",
    "test_certificates",
    "test_security",
    "test_extension_api",
    "test_hardening",
    "test_leaks",
    "test_changes",
    "test_reboot",
    "test_status",
    "test_snapshots",
    "test_drain",
    "test_destroy",
)


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
def empty_stack(show: Show, orphans_before: set[str]) -> Iterator[None]:
    """No lab at the beginning, whatever an earlier run has left, and none at the end, whatever the tests did."""
    with session.empty_stack(STACK, show):
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
