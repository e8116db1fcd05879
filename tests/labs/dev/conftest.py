"""The lab `test`: made once, used by all tests here, destroyed in the end."""

from pathlib import Path

import pytest

from lab import session
from lab.commands import STACK
from lab.fixtures import cluster, empty_stack, orphans_before, settings, show, workload

__all__ = ["cluster", "empty_stack", "orphans_before", "settings", "show", "workload"]

# From the empty stack to the empty stack; what breaks things on purpose comes after what uses them: when the API was
# away, DNS may get a new Service only half a minute later.
_ORDER = (
    "test_bad_input",
    "test_interrupted_up",
    "test_idempotence",
    "test_whose_lab",
    "test_cluster",
    "test_networking",
    "test_trace_packet",
    "test_access",
    "test_trace",
    "test_documents",
    "test_exercises",
    "test_terminating_balancer",
    "test_certificates",
    "test_security",
    "test_extension_api",
    "test_hardening",
    "test_leaks",
    "test_changes",
    "test_flags",
    "test_reboot",
    "test_stop",
    "test_status",
    "test_view",
    "test_simulated_nodes",
    "test_drift",
    "test_lessons",
    "test_snapshots",
    "test_rewind",
    "test_drain",
    "test_rotation",
    "test_destroy",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK
