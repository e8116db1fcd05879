"""The process that holds a lock, described so that another run can decide whether it still runs.

A pid alone is not enough: it is used again after a process has ended, and each PID namespace has its own. A pid with
its start time, the boot and the PID namespace is unique on one machine.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolchain import processes

KEY = "hardway"
"""Pulumi ignores this key in a lock file."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A command of this project that holds a lock.

    Args:
        command: as the user gave it: ./hardway restore.
        pid: its process.
        started: the process's start time, in clock ticks since the boot.
        boot: the kernel's id of the boot.
        machine: the id of the operating system's installation; empty where it has none.
        namespace: of the pid.
    """

    command: str
    pid: int
    started: int
    boot: str
    machine: str
    namespace: str

    @classmethod
    def this_process(cls, command: str) -> "Holder":
        """This process."""
        found = processes.read(os.getpid())
        if found is None:
            raise RuntimeError("/proc does not describe this process: is it mounted?")
        return cls(
            command=command,
            pid=os.getpid(),
            started=found.started,
            boot=boot(),
            machine=_machine(),
            namespace=_namespace(),
        )

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Holder | None":
        """The holder that a lock file names; None where it names none, or not completely."""
        known: Any = content.get(KEY)
        try:
            return cls(
                command=str(known["command"]),
                pid=int(content["pid"]),
                started=int(known["started"]),
                boot=str(known["boot"]),
                machine=str(known["machine"]),
                namespace=str(known["namespace"]),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def written(self) -> dict[str, Any]:
        """What `read` takes."""
        known = asdict(self)
        pid = known.pop("pid")
        return {"pid": pid, KEY: known}

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended for certain. Of a process elsewhere nothing is certain."""
        if self.boot != boot():
            # The same machine was booted again, or this is another machine of the same name.
            return self.machine != "" and self.machine == _machine()
        if self.namespace != _namespace():
            return False
        if not _exists(self.pid):
            return True
        found = processes.read(self.pid)
        return found is not None and (found.started != self.started or found.has_ended)


def is_running(pid: int, *, name: str) -> bool:
    """Whether a process of this pid and program may be running: False only where that is certain."""
    if not _exists(pid):
        return False
    found = processes.read(pid)
    return found is None or (found.program == name and not found.has_ended)


def _exists(pid: int) -> bool:
    # /proc may hide the processes of other users (hidepid); a signal's permission check does not.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def boot() -> str:
    """Which boot of the host this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
