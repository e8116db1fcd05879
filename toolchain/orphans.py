"""The plugins that a killed engine has left at work.

The engine ends its plugins when it ends. When it is killed it cannot, and an official plugin checks for its engine only
from time to time: for minutes it continues with its commands, beside the next run. (The stand-ins end at once.)
Only a plugin whose engine is dead for certain is ended. A script that its command has left on a machine holds the lock
of its step, and the next run of that step waits for it.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PLUGIN = re.compile(r"pulumi-(resource|language)-[a-z0-9-]+")
_ENGINE = re.compile(r"127\.0\.0\.1:(\d+)")
_ENGINES = ("pulumi",)
_GRACE_SECONDS = 5.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process. An id is used again after its end; together with the start time it is unique.

    Args:
        pid, parent: the ids.
        command: its arguments.
        started: clock ticks since boot.
        ended: whether it waits for its parent to collect its status.
    """

    pid: int
    parent: int
    command: tuple[str, ...]
    started: int
    ended: bool

    @property
    def name(self) -> str:
        """The file name of its program, by its arguments."""
        return Path(self.command[0]).name if self.command else ""

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        now = _read(self.pid)
        return now is not None and now.started == self.started and not now.ended

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            if self.is_alive:
                os.kill(self.pid, number)


def end_orphans(checkout: Path) -> list[Process]:
    """End the plugins that killed engines have left in a project, and what these plugins have started.

    Args:
        checkout: the project's directory; the engine starts its plugins in it.

    Returns:
        The plugins.
    """
    processes = {process.pid: process for process in _all()}
    orphans = [process for process in processes.values() if _is_orphan(process, processes, checkout)]
    doomed = [*orphans, *_descendants(orphans, processes.values())]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in doomed:
            process.send(number)
        _wait_for(doomed)
    return orphans


def _is_orphan(process: Process, processes: dict[int, Process], checkout: Path) -> bool:
    """Whether it is a plugin of this project, no child of a `pulumi`, and nothing listens at its engine's address."""
    if not _PLUGIN.fullmatch(process.name) or process.ended:
        return False
    address = _ENGINE.fullmatch(process.command[-1])
    if address is None:
        return False
    parent = processes.get(process.parent)
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


def _descendants(ancestors: Iterable[Process], processes: Iterable[Process]) -> list[Process]:
    found: list[Process] = []
    generation = {process.pid for process in ancestors}
    while generation:
        children = [process for process in processes if process.parent in generation]
        found += children
        generation = {child.pid for child in children}
    return found


def _wait_for(processes: Iterable[Process]) -> None:
    until = time.monotonic() + _GRACE_SECONDS
    while any(process.is_alive for process in processes) and time.monotonic() < until:
        time.sleep(_PAUSE_SECONDS)


def _all() -> Iterable[Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := _read(int(entry.name))):
            yield process


def _read(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    # proc(5): "pid (name) state ppid ...", and the start time is the 22nd field; a name may hold spaces and brackets.
    fields = stat.rpartition(")")[2].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        command=tuple(command.rstrip(b"\0").decode(errors="replace").split("\0")),
        started=int(fields[19]),
        ended=fields[0] in ("Z", "X"),
    )
