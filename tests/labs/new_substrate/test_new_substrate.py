"""A substrate is added by one folder and one row: in a copy of the project, and a lab comes up on it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from components.substrates.containers.substrate import _NO_PROCESS_LIMIT, _PODMAN_FLAGS, _RUN_FLAGS
from lab.polling import eventually
from lab.session import Show
from toolchain import node_image, paths

_STACK = "named-test"
_NODES = IPv4Network("10.134.0.0/24")
_ADDRESSES = {"controller-0": _NODES[10], "worker-0": _NODES[20], "load-balancer-0": _NODES[5]}
_SETTINGS = f"""
config:
  hardway:lab:
    substrate: named
    workers: 1
    network: {{nodes: {_NODES}, pods: 10.135.0.0/16, services: 10.136.0.0/24}}
"""
_SECONDS = 300


def _podman(*arguments: str) -> str:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout


def _succeeds(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _remove() -> None:
    for machine in _ADDRESSES:
        _podman("rm", "-f", "-i", "-t", "0", "-v", f"{_STACK}-{machine}")
    subprocess.run(["podman", "network", "rm", "-f", _STACK], capture_output=True, check=False)


@contextmanager
def _containers() -> Iterator[None]:
    """The machines, with sshd and the mirror."""
    _remove()
    # Every systemd, containerd and kubelet watches files.
    subprocess.run(["sysctl", "-q", "-w", "fs.inotify.max_user_instances=8192"], check=True)
    _podman("network", "create", "--disable-dns", "--subnet", str(_NODES), _STACK)
    try:
        flags = (*_RUN_FLAGS, *_PODMAN_FLAGS, *_NO_PROCESS_LIMIT, f"--network={_STACK}")
        for machine, address in _ADDRESSES.items():
            container = f"{_STACK}-{machine}"
            at = (f"--name={container}", f"--hostname={machine}", f"--ip={address}")
            _podman("run", "-d", *flags, *at, f"--volume={paths.mirror()}:/opt/mirror:ro", node_image.reference())
        for machine in _ADDRESSES:
            command = ["podman", "exec", f"{_STACK}-{machine}", "sh", "-c"]
            ready = [*command, "test -e /run/systemd/private && ssh-keygen -A >/dev/null && systemctl restart ssh"]
            eventually(
                f"sshd of {machine}",
                partial(_succeeds, ready),
                seconds=60,
            )
        yield
    finally:
        _remove()


def _copy_of_the_project(place: Path) -> None:
    """What git has of the project, with one folder and one row more."""
    checkout = paths.checkout()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (checkout / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, place / name)
    (place / ".venv").symlink_to(Path(sys.prefix))
    added = checkout / "tests" / "substrates"
    shutil.copytree(added / "named", place / "components" / "substrates" / "named")
    table = place / "config" / "substrates.py"
    table.write_text(f"{table.read_text()}\n\n{(added / 'row.txt').read_text()}")
    (place / f"Pulumi.{_STACK}.yaml").write_text(_SETTINGS)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    _copy_of_the_project(tmp_path)
    return tmp_path


def _hardway(project: Path, show: Show, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")}
    done = subprocess.run(
        [sys.executable, "-m", "cli", "--stack", _STACK, *words],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}{done.stderr}"
    show(f"{' '.join(words)}: done\n")
    return done.stdout


@pytest.mark.long
def test_a_lab_comes_up_on_a_substrate_of_one_folder_and_one_row(project: Path, show: Show) -> None:
    assert os.geteuid() == 0, "this test makes privileged containers: run it as root"
    with _containers():
        _hardway(project, show, "up")
        nodes: dict[str, Any] = json.loads(_hardway(project, show, "kubectl", "get", "nodes", "-o", "json"))
        (node,) = nodes["items"]
        assert node["metadata"]["name"] == "worker-0"
        ready = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        assert ready["Ready"] == "True"
        _hardway(project, show, "destroy")
        # They were there before.
        running = _podman("ps", "--filter", f"network={_STACK}", "--format", "{{.Names}}").split()
        assert sorted(running) == sorted(f"{_STACK}-{machine}" for machine in _ADDRESSES)
