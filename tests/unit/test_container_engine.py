"""Which engine runs a lab where the settings do not say."""

import json
from pathlib import Path

import pytest

from config import container_engine
from config.container_engine import chosen, keep


@pytest.fixture
def have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Programs":
    """A host with the programs of a test, and no others."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(container_engine, "_SBIN", str(tmp_path / "sbin"))
    monkeypatch.setattr(container_engine, "_SOCKETS", ())
    return Programs(tmp_path)


class Programs:
    """What a host has, and what this checkout has of its labs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.state = directory / "state"

    def __call__(self, *names: str) -> None:
        """Install programs."""
        for name in names:
            (self._directory / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
            (self._directory / "bin" / name).chmod(0o755)


@pytest.mark.parametrize(
    ("programs", "engine"),
    [
        ([], "podman"),
        (["podman"], "podman"),
        (["docker", "dockerd"], "docker"),
        (["podman", "docker", "dockerd"], "podman"),
        # The command of a Docker that is elsewhere.
        (["docker"], "podman"),
    ],
)
def test_what_the_host_has(have: Programs, programs: list[str], engine: str) -> None:
    have(*programs)
    assert chosen("dev", None, have.state) == engine


def test_the_settings_come_first(have: Programs) -> None:
    have("podman")
    keep("dev", "podman", have.state)
    assert chosen("dev", "docker", have.state) == "docker"


def test_a_lab_keeps_its_engine_when_another_is_installed(have: Programs) -> None:
    have("docker", "dockerd")
    keep("dev", chosen("dev", None, have.state), have.state)
    have("podman")
    assert chosen("dev", None, have.state) == "docker"
    assert chosen("another", None, have.state) == "podman"


def test_a_lab_without_a_record_keeps_what_its_state_says(have: Programs) -> None:
    have("docker", "dockerd")
    script = "# preflight of hardway-dev\nas_root python3 preflight.py --engine podman --network hardway-dev"
    resource = {"urn": "urn:pulumi:dev::hardway::x::machines-preflight", "inputs": {"create": script}}
    file = have.state / ".pulumi" / "stacks" / "hardway" / "dev.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": [resource]}}}))
    assert chosen("dev", None, have.state) == "podman"
    file.write_text(json.dumps({"checkpoint": {"latest": {"resources": None}}}))
    assert chosen("dev", None, have.state) == "docker"
