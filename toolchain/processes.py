"""The processes of the Pulumi host, as /proc describes them."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process. An id is used again after its end; together with the start time it is unique.

    Args:
        pid, parent, session: the ids.
        program: the kernel's name of it: the first 15 letters of the file name.
        command: its arguments.
        started: clock ticks since boot.
        has_ended: whether it waits for its parent to collect its status.
    """

    pid: int
    parent: int
    session: int
    program: str
    command: tuple[str, ...]
    started: int
    has_ended: bool

    @property
    def name(self) -> str:
        """The file name of its program, by its arguments."""
        return Path(self.command[0]).name if self.command else ""

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        now = read(self.pid)
        return now is not None and now.started == self.started and not now.has_ended

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            if self.is_alive:
                os.kill(self.pid, number)


def every() -> Iterator[Process]:
    """All processes that this user may see."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (process := read(int(entry.name))):
            yield process


def read(pid: int) -> Process | None:
    """One process; None where there is none, or /proc hides it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    # proc(5): "pid (name) state ppid pgrp session ...", and the start time is the 22nd field; a name may hold spaces
    # and brackets.
    name, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        program=name,
        command=tuple(command.rstrip(b"\0").decode(errors="replace").split("\0")),
        started=int(fields[19]),
        has_ended=fields[0] in ("Z", "X"),
    )
