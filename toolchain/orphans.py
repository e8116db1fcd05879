"""The plugins that a killed engine has left at work.

The engine ends its plugins when it ends. When it is killed it cannot, and an official plugin checks for its engine only
from time to time: for minutes it continues with its commands, beside the next run. (The stand-ins end at once.)
Only a plugin whose engine is dead for certain is ended. A script that its command has left on a machine holds the lock
of its step, and the next run of that step waits for it.
"""

import re
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from toolchain import processes
from toolchain.processes import Process

_PLUGIN = re.compile(r"pulumi-(resource|language)-[a-z0-9-]+")
_ENGINE = re.compile(r"127\.0\.0\.1:(\d+)")
_ENGINES = ("pulumi",)
# By it the commands of a lab in containers are told its identity (components/substrates/containers/owner.py).
_IDENTITY = "HARDWAY_IDENTITY"
# What runs these commands, and what makes containers and networks for them. A container's own processes, which the
# engine starts, are none of them.
_PROGRAMS = ("bash", "sh", "python3", "podman", "docker")
_GRACE_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


def end_orphans(checkout: Path) -> list[Process]:
    """End the plugins that killed engines have left in a project, and what these plugins have started.

    Args:
        checkout: the project's directory; the engine starts its plugins in it.

    Returns:
        The plugins.
    """
    running = {process.pid: process for process in processes.every()}
    orphans = [process for process in running.values() if _is_orphan(process, running, checkout)]
    _end([*orphans, *_descendants(orphans, running.values())])
    return orphans


def end_commands(identity: str) -> None:
    """End what the commands of a killed run still do on the Pulumi host, where even their plugin was killed.

    Args:
        identity: of the run's lab, which no other run has.
    """
    told = f"{_IDENTITY}={identity}".encode()
    _end([each for each in processes.every() if each.name in _PROGRAMS and told in _environment(each)])


def _environment(process: Process) -> list[bytes]:
    try:
        return Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _end(doomed: Sequence[Process]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in doomed:
            process.send(number)
        _wait_for(doomed)


def _is_orphan(process: Process, running: dict[int, Process], checkout: Path) -> bool:
    """Whether it is a plugin of this project, no child of a `pulumi`, and nothing listens at its engine's address."""
    if not _PLUGIN.fullmatch(process.name) or process.has_ended:
        return False
    address = _ENGINE.fullmatch(process.command[-1])
    if address is None:
        return False
    parent = running.get(process.parent)
    if parent is not None and parent.name in _ENGINES:
        return False
    try:
        # Another user's process cannot be read, and is none of this user's runs.
        directory = Path(f"/proc/{process.pid}/cwd").readlink()
    except OSError:
        return False
    return directory == checkout and _is_closed(int(address[1]))


def _is_closed(port: int) -> bool:
    """Whether a connection to this local port is refused; any other answer proves nothing."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def _descendants(ancestors: Iterable[Process], running: Iterable[Process]) -> list[Process]:
    found: list[Process] = []
    generation = {process.pid for process in ancestors}
    while generation:
        children = [process for process in running if process.parent in generation]
        found += children
        generation = {child.pid for child in children}
    return found


def _wait_for(doomed: Iterable[Process]) -> None:
    until = time.monotonic() + _GRACE_SECONDS
    while any(process.is_alive for process in doomed) and time.monotonic() < until:
        time.sleep(_PAUSE_SECONDS)
