"""What tests of the tool chain start from."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from upstream_server import Upstream, serving

from toolchain.progress import Report


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """An empty release server."""
    with serving() as server:
        yield server


@pytest.fixture
def said() -> io.StringIO:
    """What the report has shown."""
    return io.StringIO()


@pytest.fixture
def report(said: io.StringIO) -> Iterator[Report]:
    with Report(said) as shown:
        yield shown


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of the tool chain's own."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("HARDWAY_CACHE", str(directory))
    return directory
