"""The lab `ha-test`: made once, used by all tests here, destroyed in the end. Every test leaves it as it found it."""

from pathlib import Path

import pytest

from lab import session
from lab.fixtures import cluster, empty_stack, orphans_before, settings, show

__all__ = ["cluster", "empty_stack", "orphans_before", "settings", "show"]

STACK = "ha-test"
# What makes labs of its own on this stack comes before the lab that the others share.
_ORDER = ("test_interrupted", "test_scale", "test_replace", "test_drills", "test_search", "test_restore")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK
