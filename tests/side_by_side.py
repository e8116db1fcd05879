"""What runs beside what: two processes, as many as the smallest machine for these tests has processors.

One has the labs on this host's own network, one after the other. The other has all the rest, a file at a time: also the
labs that have a host, that is namespaces, of their own.
"""

from pathlib import Path

import pytest

_ON_THIS_HOST = ("machines", "droplets", "lab", "lab_four", "kubeadm", "calico", "ha")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the group of each test, for `pytest --numprocesses 2 --dist loadgroup`; groups share their fixtures."""
    tests = Path(__file__).parent
    for item in items:
        file = item.path.relative_to(tests)
        item.add_marker(pytest.mark.xdist_group("labs" if file.parts[0] in _ON_THIS_HOST else file.as_posix()))
