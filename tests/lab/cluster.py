"""The cluster as a person reaches it: kubectl, ssh and the stack's outputs, by the files that `./hardway up` wrote."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from config import lab as config
from config.machines import MachineSpec, Role
from lab.commands import CHECKOUT, Ran, pulumi

_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running lab.

    Args:
        settings: what it was asked to be.
        up: how the `up` went that made it.
        command_lines: of all processes that were seen on the host meanwhile, the machines' included.
    """

    settings: config.Lab
    up: Ran
    command_lines: frozenset[str] = field(repr=False)

    @property
    def directory(self) -> Path:
        """Where the files are that `./hardway up` wrote."""
        return CHECKOUT / ".state" / self.settings.name

    def kubectl_command(self, *arguments: str) -> list[str]:
        """The command line of the lab's own kubectl."""
        return [str(self.directory / "kubectl"), "--kubeconfig", str(self.directory / "kubeconfig"), *arguments]

    def try_kubectl(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl, however it ends."""
        return _run(self.kubectl_command(*arguments), stdin)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints.

        Raises:
            CalledProcessError: it failed.
        """
        done = self.try_kubectl(*arguments, stdin=stdin)
        done.check_returncode()
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """Objects of the API."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def raw(self, path: str) -> str:
        """What the API server answers on a path."""
        return self.kubectl("get", "--raw", path)

    def apply(self, *documents: dict[str, Any]) -> None:
        """Make or change objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))

    def try_ssh(self, machine: str, command: str, *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine, however it ends."""
        files = ["-F", str(self.directory / "ssh_config"), "-i", str(self.directory / "ssh_key")]
        return _run(["ssh", *files, "-o", "ConnectTimeout=5", "-o", "BatchMode=yes", machine, command], stdin)

    def ssh(self, machine: str, command: str, *, stdin: str | None = None) -> str:
        """What a command on a machine prints.

        Raises:
            CalledProcessError: it failed, or the machine was not reached.
        """
        done = self.try_ssh(machine, command, stdin=stdin)
        done.check_returncode()
        return done.stdout

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secrets in clear."""
        ran = pulumi("stack", "output", "--json", "--show-secrets", stack=self.settings.name)
        assert ran.code == 0, ran.output
        found: dict[str, Any] = json.loads(ran.output)
        return found

    @property
    def machines(self) -> Sequence[MachineSpec]:
        """All of them."""
        return self.settings.machines

    @property
    def controllers(self) -> Sequence[MachineSpec]:
        """The controllers."""
        return self.settings.with_role(Role.CONTROLLER)

    @property
    def controller(self) -> MachineSpec:
        """The first controller."""
        return self.controllers[0]

    @property
    def balancer(self) -> MachineSpec:
        """The load balancer."""
        return self.settings.with_role(Role.LOAD_BALANCER)[0]

    @property
    def workers(self) -> Sequence[MachineSpec]:
        """The workers."""
        return self.settings.with_role(Role.WORKER)

    def etcd_ids(self, machine: str) -> dict[str, str]:
        """etcd's members, as one machine's etcdctl has them: name -> id. All have started."""
        listed = self.ssh(machine, ". /etc/etcd/etcdctl.env && etcdctl member list")
        fields = [line.split(", ") for line in listed.splitlines()]
        assert {field[1] for field in fields} == {"started"}
        return {field[2]: field[0] for field in fields}

    def unit_starts(self, machine: str, *units: str) -> dict[str, int]:
        """When units were last started, in microseconds since the host's boot."""
        shown = self.ssh(machine, f"systemctl show --property ActiveEnterTimestampMonotonic --value {' '.join(units)}")
        return dict(zip(units, map(int, shown.split()), strict=True))

    def situation(self) -> str:
        """What helps to see why something is not ready."""
        asked = [
            ["get", "nodes,pods,services", "--all-namespaces", "-o", "wide"],
            *(["describe", "pod", "--namespace", *pod] for pod in self._pods_not_ready()),
            ["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"],
        ]
        return "\n".join(_end(self.try_kubectl(*words)) for words in asked)

    def _pods_not_ready(self) -> list[tuple[str, str]]:
        done = self.try_kubectl("get", "pods", "--all-namespaces", "-o", "json")
        pods = json.loads(done.stdout)["items"] if done.returncode == 0 else []
        return [
            (pod["metadata"]["namespace"], pod["metadata"]["name"])
            for pod in pods
            if not any(entry["type"] == "Ready" and entry["status"] == "True" for entry in _conditions(pod))
        ]


def _run(command: list[str], stdin: str | None) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False, **given)


def _conditions(item: dict[str, Any]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = item["status"].get("conditions", [])
    return found


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stdout + done.stderr).splitlines()[-40:])
