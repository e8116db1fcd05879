"""Hosts that stop answering while Pulumi works on them: the run is ended, with the host's name.

The official command plugin waits without a deadline for a command that it has started on a machine, and for a server
that accepts a connection and then says nothing; `customTimeouts` change neither. So the tool chain watches. The state
names the steps that are under way; in a run that saves the state once, what the CLI prints does. While one is, its
machine's SSH server is asked for its greeting: a host whose processes are stopped still accepts connections, and says
nothing. A host that refuses connections, or does not accept them, is not meant: it may be booting, and the plugin has
deadlines of its own for that.
"""

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from toolchain.stack import Stack

_LOOK_SECONDS = 5.0
_GREETING_SECONDS = 10.0
SILENT_SECONDS = 60.0
STEP_SECONDS = 1800.0
_STEP = "command:remote:Command"
# As the CLI prints it of a resource that is created: "creating (0s)", "created (2s)", "**creating failed**".
_PRINTED = re.compile(rf"{_STEP} (\S+) (creating \(|created \(|\*\*creating failed\*\*)")
# As Machine.reads_script writes it (components/machine.py).
_TITLE = re.compile(r"bash -s -- (\S+) on (\S+)")


@contextmanager
def watched(
    steps: Callable[[], Mapping[str, str]] | None, stack: Stack, end: Callable[[], None]
) -> Iterator[list[str]]:
    """Watch the steps that a run of Pulumi has under way.

    Args:
        steps: returns them, each with its machine. Without it nothing is watched.
        stack: whose run.
        end: ends it; called once.

    Yields:
        a list, which gets one line if `end` was called: why.
    """
    over, found = threading.Event(), list[str]()

    def watch() -> None:
        watcher = Watcher(stack.addresses, stack.timeout_factor)
        while steps and not over.wait(_LOOK_SECONDS):
            if why := watcher.look(steps()):
                found.append(why)
                end()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


class PrintedSteps:
    """The steps that an engine is at work on, by what the CLI prints of each when it begins and when it ends.

    Args:
        machines: the names of all machines. A step has one in its name, or is on a machine that its name does not say.
    """

    def __init__(self, machines: Iterable[str]) -> None:
        self._machines = tuple(machines)
        self._under_way: Mapping[str, str] = {}

    def read(self, line: str) -> None:
        """Read a line."""
        if not (printed := _PRINTED.search(line)):
            return
        step, event = printed.groups()
        others = {each: machine for each, machine in self._under_way.items() if each != step}
        # Not changed in place: another thread reads it.
        self._under_way = {**others, step: self._machine_of(step)} if event == "creating (" else others

    def under_way(self) -> Mapping[str, str]:
        """Step -> its machine; empty where its name has none."""
        return self._under_way

    def _machine_of(self, step: str) -> str:
        return max((each for each in self._machines if f"-{each}-" in f"-{step}-"), key=len, default="")


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
        """Ask the machines of these steps once; all machines where one of the steps does not say its machine.

        Returns:
            What is beyond its deadline, in one line; nothing where all is in time.
        """
        now = time.monotonic()
        self._under_way = {step: self._under_way.get(step, now) for step in steps.items()}
        # Of a step whose machine is not known, it may be any.
        at_work = set(self._addresses) if "" in steps.values() else set(steps.values())
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
                where = f"{machine}: " if machine else ""
                return f"{where}the step {step} has not ended within {STEP_SECONDS * self._factor:.0f} s."
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
