"""Lab 4 as it was written down, kubeadm's cluster with Calico: the tests of tests/calico, on `lab-four-test`."""

from pathlib import Path

import pytest

from calico import conftest as calico
from config import lab as config
from lab import session

STACK = "lab-four-test"
_ORDER = ("test_calico", "test_end")
show, cluster, workload = calico.show, calico.cluster, calico.workload


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def settings() -> config.Lab:
    """What the lab is to be."""
    return session.settings_of(STACK)
