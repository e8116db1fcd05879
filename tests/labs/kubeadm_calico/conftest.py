"""Lab 4 as it was written down, kubeadm with Calico: the tests of tests/labs/calico, on `kubeadm-calico-test`."""

from pathlib import Path

import pytest

from lab import session
from lab.fixtures import cluster, empty_stack, orphans_before, settings, show, workload

__all__ = ["cluster", "empty_stack", "orphans_before", "settings", "show", "workload"]

STACK = "kubeadm-calico-test"
# What makes a lab of its own on this stack comes before the lab that the others share.
# The API deletes the requests of certificates that a page shows an hour after they were approved.
_ORDER = ("test_external", "test_documents", "test_exercises", "test_trace", "test_calico", "test_end")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK
