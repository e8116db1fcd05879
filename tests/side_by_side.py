"""What runs beside what: two processes, as many as the smallest machine for these tests has processors.

One has the labs on this host's own network, one after the other. The other has the tests of the tool chain and the
engine, and the labs whose host is a few namespaces, likewise: what they make has fixed names. The unit tests, a file at
a time, are for whichever has nothing to do.
"""

from pathlib import Path

import pytest

_LABS_ON_THIS_HOST = ("machines", "droplets", "lab", "lab_four", "kubeadm", "calico", "ha")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name the group of each test, for `pytest --numprocesses 2 --dist loadgroup`."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item.path.relative_to(Path(__file__).parent))))


def _group(file: Path) -> str:
    folder = file.parts[0]
    if folder == "unit":
        return file.as_posix()
    return "labs" if folder in _LABS_ON_THIS_HOST else "hosts"
