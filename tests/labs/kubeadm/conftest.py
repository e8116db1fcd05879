"""The lab `kubeadm-test`: made once, used by all tests here, destroyed in the end."""

from pathlib import Path

import pytest

from lab import session
from lab.commands import Ran, Started
from lab.fixtures import cluster, empty_stack, orphans_before, settings, show, workload
from lab.session import Show
from labs.dev.test_networking import outside

__all__ = ["cluster", "empty_stack", "orphans_before", "outside", "settings", "show", "workload"]

STACK = "kubeadm-test"
# Another flag restarts three controllers one after the other: three minutes on an idle host.
_SECONDS = 15 * 60
# What makes a lab of its own on this stack comes before the lab that the others share.
_ORDER = (
    *("test_upgrade", "test_external", "test_smoke", "test_lab", "test_flags", "test_trace"),
    *("test_rotation", "test_drift", "test_drills", "test_recovery", "test_destroy"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


def live(*words: str, show: Show = lambda line: None) -> Ran:
    """Run a command for the lab, which is up, to its end."""
    return Started(*words, show=show, stack=STACK).wait(_SECONDS)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK
