"""The lab `ha-test`: made once, used by all tests here, destroyed in the end. Every test leaves it as it found it.

Its `up` and its `destroy` are killed and run again, since labs of their own for that would cost minutes.
"""

import random
from functools import partial
from pathlib import Path

import pytest

from config import lab as config
from lab import session
from lab.cluster import Cluster
from lab.commands import toolchain
from lab.fixtures import empty_stack, orphans_before, settings, show
from lab.kills import SEED, Killer
from lab.session import Show

__all__ = ["empty_stack", "orphans_before", "settings", "show"]

STACK = "ha-test"
# What makes labs of its own on this stack comes before the lab that the others share.
_ORDER = (
    "test_interrupted",
    "test_upgrade",
    "test_killed_up",
    "test_scale",
    "test_replace",
    "test_documents",
    "test_exercises",
    "test_drift",
    "test_rotation",
    "test_drills",
    "test_view",
    "test_trace",
    "test_search",
    "test_restore",
    "test_destroy",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack() -> str:
    """Which lab."""
    return STACK


@pytest.fixture(scope="session")
def killer(show: Show) -> Killer:
    """Kills commands at the moments of HARDWAY_SEED."""
    show(f"\nHARDWAY_SEED={SEED}\n")
    return Killer(chance=random.Random(SEED))


@pytest.fixture(scope="session")
def cluster(empty_stack: None, killer: Killer, settings: config.Lab, show: Show) -> Cluster:
    """The lab, by an `up` that was killed and the next one."""
    finished = killer.kill_and_finish("up", "up", partial(toolchain, "destroy", stack=STACK), stack=STACK, show=show)
    return Cluster(settings=settings, up=finished, command_lines=frozenset())
