"""What tests with the real engine start from."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.project import Project
from engine.ssh_host import SshHost


@pytest.fixture(scope="session")
def pulumi() -> str:
    """The Pulumi CLI: HARDWAY_PULUMI, else the one on PATH."""
    found = os.environ.get("HARDWAY_PULUMI") or shutil.which("pulumi")
    assert found, "no Pulumi CLI: run `./hardway setup`, or set HARDWAY_PULUMI to its path"
    return found


@pytest.fixture(scope="session")
def empty_project(pulumi: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Made once, because a stack takes the CLI some time to make."""
    project = Project(pulumi, tmp_path_factory.mktemp("empty"))
    project.create()
    return project


@pytest.fixture
def project(empty_project: Project, tmp_path: Path) -> Project:
    return empty_project.copy(tmp_path)


@pytest.fixture
def host() -> Iterator[SshHost]:
    with SshHost() as started:
        yield started
