"""Hosts that stop answering while Pulumi works on them: the run is ended, with the host's name.

The official command plugin waits without a deadline for a command that it has started on a machine, and for a server
that accepts a connection and then says nothing; `customTimeouts` change neither. So the tool chain watches. The state
names the steps that are under way. While one is, its machine's SSH server is asked for its greeting: a host whose
processes are stopped still accepts connections, and says nothing. A host that refuses connections, or does not accept
them, is not meant: it may be booting, and the plugin has deadlines of its own for that.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolchain.recovery import recorded
from toolchain.stack import Stack

_LOOK_SECONDS = 5.0
_GREETING_SECONDS = 10.0
SILENT_SECONDS = 60.0
STEP_SECONDS = 1800.0
_STEP = "command:remote:Command"
# As Machine.reads_script writes it (components/machine.py).
_TITLE = re.compile(r"bash -s -- (\S+) on (\S+)")


@contextmanager
def watched(directory: Path | None, stack: Stack, end: Callable[[], None]) -> Iterator[list[str]]:
    """Watch the steps that a run of Pulumi has under way.

    Args:
        directory: of the backend. Where it is no directory, nothing is watched: its state cannot be read meanwhile.
        stack: whose run.
        end: ends it; called once.

    Yields:
        a list, which gets one line if `end` was called: why.
    """
    over, found = threading.Event(), list[str]()

    def watch() -> None:
        watcher = Watcher(stack.addresses, stack.timeout_factor)
        while not over.wait(_LOOK_SECONDS):
            if why := watcher.look(steps_under_way(recorded(directory, stack))):
                found.append(why)
                end()
                return

    thread = threading.Thread(target=watch, daemon=True)
    if directory is not None:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        if directory is not None:
            thread.join()


def steps_under_way(deployment: Mapping[str, Any]) -> dict[str, str]:
    """Step -> its machine, of those that an engine is at work on; by a stack's latest state."""
    found = {}
    for operation in deployment.get("pending_operations") or []:
        resource = operation["resource"]
        title = _TITLE.search(str((resource.get("inputs") or {}).get("create")))
        if resource.get("type") == _STEP and title:
            found[title[1]] = title[2]
    return found


class Watcher:
    """Remembers since when each step is under way, and each machine silent.

    Args:
        addresses: machine -> host and port of its SSH server, of those that can be reached directly.
        timeout_factor: of the lab.
    """

    def __init__(self, addresses: Mapping[str, tuple[str, int]], timeout_factor: int = 1) -> None:
        self._addresses = addresses
        self._factor = timeout_factor
        self._under_way: dict[tuple[str, str], float] = {}
        self._silent: dict[str, float] = {}

    def look(self, steps: Mapping[str, str]) -> str:
        """Ask the machines of these steps once.

        Returns:
            What is beyond its deadline, in one line; nothing where all is in time.
        """
        now = time.monotonic()
        self._under_way = {step: self._under_way.get(step, now) for step in steps.items()}
        at_work = set(steps.values())
        self._silent = {machine: since for machine, since in self._silent.items() if machine in at_work}
        for machine in sorted(at_work & self._addresses.keys()):
            host, port = self._addresses[machine]
            if greets(host, port, _GREETING_SECONDS * self._factor):
                self._silent.pop(machine, None)
                continue
            since = self._silent.setdefault(machine, now)
            if (seconds := time.monotonic() - since) >= SILENT_SECONDS * self._factor:
                return (
                    f"{machine} ({host}) does not answer: its SSH server accepts connections and has said nothing "
                    f"for {seconds:.0f} s."
                )
        for (step, machine), since in self._under_way.items():
            if now - since >= STEP_SECONDS * self._factor:
                return f"{machine}: the step {step} has not ended within {STEP_SECONDS * self._factor:.0f} s."
        return ""


def greets(host: str, port: int, seconds: float) -> bool:
    """Whether an SSH server says anything to who connects, or accepts no connection at all."""
    try:
        connection = socket.create_connection((host, port), timeout=seconds)
    except OSError:
        return True
    with connection:
        try:
            connection.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True
    return True
