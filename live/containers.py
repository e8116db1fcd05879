"""A lab's machines as containers of the engine: stopped, started and paused, all at once; and where their disks are.

Only containers with the lab's label and its machines' names, and only after the lab's key was compared with theirs.
They are addressed by id from then on: another container may get a name in the meantime.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from live.cluster import Cluster
from toolchain import whose
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_SECONDS = 60
_SYSTEMD = Path("/run/systemd/system")
_UNITS = Path("/etc/systemd/system")


@dataclass(frozen=True, kw_only=True)
class Container:
    """One machine.

    Args:
        machine: its name in the lab.
        id: the container's.
        status: running, paused, exited, created.
        image: the id of its image.
        upper: the directory on the Pulumi host with all that differs from its image; empty where the engine has none.
        volumes: directory in the machine -> directory on the Pulumi host, of its own volumes.
    """

    machine: str
    id: str
    status: str
    image: str = ""
    upper: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)


def check_engine(stack: Stack, command: str) -> None:
    """Refuse labs whose machines are no containers, and users who are not root.

    Args:
        stack: whose lab.
        command: stop, start, save or rewind.

    Raises:
        ToolchainError: with the reason. Nothing was changed.
    """
    if not stack.traits.on_engine:
        raise ToolchainError(
            f"`{command}` is for labs in containers; the machines of the stack {stack.name} are of the substrate "
            f"`{stack.substrate}`, where other programs stop, start and save machines. Nothing was changed."
        )
    if os.geteuid() != 0:
        raise ToolchainError(
            f"The stack {stack.name} has its machines in privileged containers, which only root may stop, start or "
            "save. Run the same command with sudo."
        )


class Containers:
    """The containers of one lab.

    Args:
        cluster: the lab.

    Attributes:
        stack: the lab's.
        engine: the command of its container engine.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.stack = cluster.stack
        self._prefix = f"hardway-{cluster.stack.name}"
        self.engine = cluster.stack.engine

    def find(self) -> list[Container]:
        """All machines, in the order of the lab.

        Raises:
            ToolchainError: one is missing, one is not the lab's, or there are others of the lab.
        """
        whose.check_own(self.stack)
        names = {f"{self._prefix}-{machine.name}": machine.name for machine in self._cluster.machines}
        label = f"label=hardway.lab={self.stack.name}"
        labelled = set(self._run("ps", "-a", "--filter", label, "--format", "{{.Names}}").split())
        if problems := list(_differences(names, labelled)):
            raise ToolchainError(
                f"The containers of the lab {self.stack.name} are not those that `./hardway up` made. "
                f"Nothing was changed.\n" + "\n".join(f"  - {each}" for each in problems)
            )
        described = json.loads(self._run("container", "inspect", *names))
        by_name = {str(each["Name"]).lstrip("/"): each for each in described}
        return [_container(machine, by_name[name]) for name, machine in names.items()]

    def stop(self, containers: Sequence[Container], *, seconds: Callable[[str], int]) -> None:
        """Stop machines at once: what has not ended by itself after so many seconds is killed.

        Args:
            containers: which.
            seconds: of each machine, by its name.

        Raises:
            ToolchainError: with those that still run.
        """
        self.unpause(containers)

        def stop(container: Container) -> None:
            allowed = seconds(container.machine)
            self._run("stop", "-t", str(allowed), container.id, seconds=allowed + _SECONDS)

        self._at_once(stop, containers)

    def boot(self, containers: Sequence[Container]) -> None:
        """What the host's unit of the lab does at boot: kernel modules, firewall, machines, routes to pods.

        Args:
            containers: the machines that are started, all at once. Nothing happens to those that run.

        Raises:
            ToolchainError: with what failed.
        """
        for words in boot_commands(self._cluster):
            if words[1:3] == [self.engine, "start"]:
                self.start(containers)
            else:
                self._host_boot(words)

    def _host_boot(self, words: Sequence[str]) -> None:
        self._checked(words)

    def start(self, containers: Sequence[Container]) -> None:
        """Start machines at once. Nothing happens to those that run.

        Raises:
            ToolchainError: with those that were not started.
        """
        self.unpause(containers)
        self._each("start", containers=containers, seconds=_SECONDS)

    def unpause(self, containers: Sequence[Container]) -> None:
        """Let machines go on that a killed save has left paused."""
        if paused := [each for each in containers if each.status == "paused"]:
            self._each("unpause", containers=paused, seconds=_SECONDS)

    @contextmanager
    def paused(self, containers: Sequence[Container]) -> Iterator[None]:
        """Pause machines for as long as the `with` block runs; they go on however this process ends.

        Raises:
            ToolchainError: one cannot be paused, or does not go on.
        """
        ids = [each.id for each in containers]
        # It has the machines go on when its standard input ends, which is at the latest the end of this process.
        goes_on = f"read -r _ || true\nexec {shlex.quote(self.engine)} unpause {' '.join(ids)}"
        with subprocess.Popen(
            ["/bin/sh", "-c", goes_on],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as guard:
            try:
                self._each("pause", containers=containers, seconds=_SECONDS)
                yield
            finally:
                _, error = guard.communicate("\n", timeout=self._cluster.allowed(_SECONDS))
        if guard.returncode != 0 and sys.exc_info()[0] is None:
            raise ToolchainError(f"Not all machines went on after their pause: {error.strip()}")

    def start_at_boot(self, wanted: bool) -> None:
        """Have the host start the lab at boot, or not. Nothing happens where the host has no such unit."""
        unit = f"{self._prefix}.service"
        if _SYSTEMD.is_dir() and (_UNITS / unit).exists():
            self._checked(["systemctl", "-q", "enable" if wanted else "disable", unit])

    def _each(self, *command: str, containers: Sequence[Container], seconds: float) -> None:
        """Run a command of the engine for each container, all at once."""
        self._at_once(lambda container: self._run(*command, container.id, seconds=seconds), containers)

    def _at_once(self, do: Callable[[Container], object], containers: Sequence[Container]) -> None:
        """Do something with each container, all at once.

        Raises:
            ToolchainError: with all that failed.
        """

        def failure(container: Container) -> str:
            try:
                do(container)
            except ToolchainError as error:
                return f"{self._prefix}-{container.machine}: {error}"
            return ""

        with ThreadPoolExecutor(max_workers=max(1, len(containers))) as threads:
            failed = [each for each in threads.map(failure, containers) if each]
        if failed:
            raise ToolchainError("\n".join(failed))

    def _run(self, *command: str, seconds: float = _SECONDS) -> str:
        return self._checked([self.engine, *command], seconds=seconds)

    def _checked(self, command: Sequence[str], *, seconds: float = _SECONDS) -> str:
        try:
            done = ask(*command, timeout=self._cluster.allowed(seconds))
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolchainError(str(error)) from error
        if done.returncode != 0:
            shown = shlex.join(command[:4])
            raise ToolchainError(f"`{shown}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def boot_commands(cluster: Cluster) -> Iterator[list[str]]:
    """The commands of the host's unit of the lab, in their order."""
    stack = cluster.stack
    workers = [(machine.pod_cidr, machine.address) for machine in cluster.machines if machine.pod_cidr]
    machines = [machine.name for machine in cluster.machines]
    unit = stack.traits.load_operations().boot_unit(stack.name, stack.engine, machines, workers)
    for line in unit.splitlines():
        if line.startswith("ExecStart="):
            yield shlex.split(line.removeprefix("ExecStart="))


def _differences(names: Mapping[str, str], labelled: set[str]) -> Iterator[str]:
    yield from (f"{name} is missing: `./hardway replace {names[name]}`" for name in names if name not in labelled)
    yield from (f"{name} is not of the lab's machines: run `./hardway up`" for name in sorted(labelled - names.keys()))


def _container(machine: str, described: Mapping[str, Any]) -> Container:
    driver = described.get("GraphDriver") or {}
    return Container(
        machine=machine,
        id=described["Id"],
        status=described["State"]["Status"],
        image=described["Image"],
        upper=(driver.get("Data") or {}).get("UpperDir") or "",
        volumes={
            mount["Destination"]: mount["Source"]
            for mount in sorted(described["Mounts"], key=lambda each: str(each["Destination"]))
            if mount["Type"] == "volume"
        },
    )
