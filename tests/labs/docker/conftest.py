"""The lab `docker-test` on a Docker of the tests' own."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import session
from lab.commands import CHECKOUT, settings_file
from labs.docker.docker_host import DockerHost

STACK = "docker-test"
_ORDER = ("test_command_lines", "test_lab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def host() -> Iterator[DockerHost]:
    """The host, without a lab; a state of an earlier run's lab, whose host is gone, is forgotten."""
    session.forget(STACK)
    settings = settings_file(STACK)
    before = settings.read_bytes()
    # Not in the tests' own directory: a path of a socket has 107 characters at the most.
    directory = Path(tempfile.mkdtemp(prefix="hardway-docker-", dir="/var/tmp"))
    made = DockerHost(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        settings.write_bytes(before)
        session.forget(STACK)
        settings.write_bytes(before)
        shutil.rmtree(CHECKOUT / ".state" / STACK, ignore_errors=True)
        shutil.rmtree(directory)
