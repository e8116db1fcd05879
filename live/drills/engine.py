"""The container engine of a lab's host: what a machine's power switch and the host's own boot are to a container."""

import os
import shlex
from collections.abc import Sequence

from live.cluster import Cluster, LiveMachine
from live.containers import boot_commands
from toolchain.command import ask
from toolchain.errors import ToolchainError

_SECONDS = 90


class Engine:
    """The engine that runs a lab's machines."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.name = cluster.stack.engine
        self._prefix = f"hardway-{cluster.stack.name}"
        self._as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]

    def cut_power(self, *machines: LiveMachine) -> None:
        """Stop machines as a power failure does: no process on them gets a signal first."""
        running = self._running()
        if wanted := [name for name in map(self._container, machines) if name in running]:
            self._run(self.name, "kill", "--signal=KILL", *wanted)

    def start(self, machine: LiveMachine) -> None:
        """Start a machine that is stopped; nothing happens to one that runs."""
        self._run(self.name, "start", self._container(machine))

    def boot(self) -> None:
        """What the host's unit of the lab does at boot: start every machine, set the routes to the pods."""
        for words in boot_commands(self._cluster):
            self._run(*words)

    def restart(self) -> None:
        """Restart the engine, and have the lab's machines started again as at boot.

        docker's daemon takes its containers down with it. podman has none: its containers have no common process that
        could be restarted, so all of them are stopped in order, as a restart of a daemon does.
        """
        if self.name == "docker":
            self._run("systemctl", "restart", "docker")
        else:
            self._run(self.name, "stop", *map(self._container, self._cluster.machines))
        self.boot()

    def _container(self, machine: LiveMachine) -> str:
        return f"{self._prefix}-{machine.name}"

    def _running(self) -> set[str]:
        mine = f"label=hardway.lab={self._cluster.stack.name}"
        return set(self._run(self.name, "ps", "--filter", mine, "--format", "{{.Names}}").split())

    def _run(self, *command: str) -> str:
        done = ask(*self._as_root, *command, timeout=self._cluster.allowed(_SECONDS))
        if done.returncode != 0:
            raise ToolchainError(f"`{_shown(command)}` ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout


def _shown(command: Sequence[str]) -> str:
    return shlex.join(command[:6]) + (" ..." if len(command) > 6 else "")
