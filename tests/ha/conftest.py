"""The lab `ha-test`: made once, used by all tests here, destroyed in the end. Every test leaves it as it found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import lab as config
from lab import session
from lab.cluster import Cluster
from lab.session import Show

STACK = "ha-test"
# What makes labs of its own on this stack comes before the lab that the others share.
_ORDER = ("test_interrupted", "test_scale", "test_replace", "test_drills")


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
    with session.empty_stack(STACK, show):
        yield session.made(settings, show)
