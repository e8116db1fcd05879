"""Which container engine runs a lab: podman or docker.

What the settings say; else what the lab runs on already; else what the Pulumi host has. Nothing is run and nothing is
asked: a preview may do this, and a running lab keeps its engine when another is installed later.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from config import recorded_state
from config.errors import UserError

PODMAN, DOCKER = "podman", "docker"
# Not in a user's PATH on Debian.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_RECORD = "container-engine"
_SOCKETS = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))


def chosen(stack: str, setting: Any, state: Path) -> str:
    """The engine of a lab.

    Args:
        stack: whose lab.
        setting: `lab.containers.engine`; None where it is not set.
        state: the directory with what this checkout keeps of its labs.
    """
    return str(setting) if setting is not None else kept(stack, state) or found()


def kept(stack: str, state: Path) -> str | None:
    """The engine that a lab runs on; None where neither its record nor its state has one."""
    try:
        recorded = (state / stack / _RECORD).read_text().strip()
    except OSError:
        return _in_state(recorded_state.in_directory(state, stack))
    return recorded if recorded in (PODMAN, DOCKER) else None


def keep(stack: str, engine: str, state: Path) -> None:
    """Record a lab's engine. The record goes with the lab's other files when the lab is destroyed."""
    (state / stack).mkdir(mode=0o700, parents=True, exist_ok=True)
    (state / stack / _RECORD).write_text(f"{engine}\n")


def found() -> str:
    """docker where it is here without podman; else podman, which set-up installs where it is missing.

    The command alone is not docker: its daemon must be on the Pulumi host, since it makes the lab's network here.
    """
    everywhere = os.pathsep.join((os.environ.get("PATH", ""), _SBIN))
    has_daemon = shutil.which("dockerd", path=everywhere) is not None or any(socket.exists() for socket in _SOCKETS)
    return DOCKER if shutil.which(PODMAN) is None and shutil.which(DOCKER) is not None and has_daemon else PODMAN


def has_cgroup_v2() -> bool:
    """Whether the Pulumi host has cgroup v2 and no other: then a container cannot change its own limits."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _in_state(file: Path) -> str | None:
    """What the state of a lab in a backend of files says: the first script that was run asks the engine."""
    try:
        found = recorded_state.resources(file)
    except UserError:
        return None
    scripts = [
        str((resource.get("inputs") or {}).get("create"))
        for resource in found
        if str(resource.get("urn")).endswith("::machines-preflight")
    ]
    engines = [match[1] for script in scripts if (match := re.search(r"--engine (podman|docker)\b", script))]
    return engines[0] if engines else None
