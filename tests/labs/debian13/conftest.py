"""Debian 13 hosts for the tests, each in a directory of its own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs.debian13.namespace_host import NamespaceHost


@pytest.fixture(scope="module")
def host() -> Iterator[NamespaceHost]:
    """A host that has just started: no daemon runs, nothing is forwarded."""
    # On a disk: the overlay of a container engine cannot lie on what pytest's directory may be.
    with tempfile.TemporaryDirectory(prefix="hardway-host-", dir="/var/tmp") as directory:
        made = NamespaceHost(Path(directory) / "state")
        made.start()
        try:
            yield made
        finally:
            made.stop()
