"""The lab `calico-test`: made once, used by all tests here, destroyed in the end."""

from pathlib import Path

import pytest

from lab import session
from lab.fixtures import cluster, empty_stack, orphans_before, settings, show, workload

__all__ = ["cluster", "empty_stack", "orphans_before", "settings", "show", "workload"]

STACK = "calico-test"
_ORDER = ("test_network", "test_trace_packet", "test_policies", "test_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK
