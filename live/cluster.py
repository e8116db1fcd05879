"""A running lab, as a person reaches it: machines by ssh, API by kubectl, with the files that `./hardway up` wrote.

All of it works from the host that runs Pulumi, and needs neither Pulumi nor its state.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import IO, Any

from config import chapters
from config.machines import Role
from live import machine_lock
from toolchain import access
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

_NO_PROXY = "export no_proxy='*' NO_PROXY='*'\n"


@dataclass(frozen=True, kw_only=True)
class LiveMachine:
    """One machine of a running lab.

    Args:
        name: its host name.
        roles: what it is for.
        address: IPv4, in the machines' range.
        pod_cidr: the range of its pods; workers only.
        user: who logs in there: root, or a user whose sudo needs no password.
    """

    name: str
    roles: frozenset[Role]
    address: str
    pod_cidr: str | None = None
    user: str = "root"

    def as_root(self, script: str) -> str:
        """The command by which the login user runs a script in root's bash.

        What it asks is on the lab's machines: a proxy of the host's (/etc/environment) is not used.
        """
        # sudo resets the environment; scripts need to know where the connection comes from.
        sudo = "" if self.user == "root" else 'sudo -n env "SSH_CONNECTION=$SSH_CONNECTION" '
        # By bash, whatever the login shell is. In the script, since sudo resets the environment.
        return f"{sudo}bash -c {quote(_NO_PROXY + script)}"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running lab.

    Args:
        stack: which one.
        endpoint: https://address:6443, where people and workers reach the API.
        machines: all of them.
        until: the last chapter that it has.
    """

    stack: Stack
    endpoint: str
    machines: Sequence[LiveMachine]
    until: str = chapters.COMPLETE

    @property
    def timeout_factor(self) -> int:
        """What every deadline is multiplied by."""
        return self.stack.timeout_factor

    def allowed(self, seconds: float) -> float:
        """A deadline of this lab: the seconds of a lab whose machines are fast, times its `timeout_factor`."""
        return seconds * self.timeout_factor

    def has(self, chapter: str) -> bool:
        """Whether the program has built a chapter."""
        return chapters.reaches(self.until, chapter)

    def with_role(self, role: Role) -> list[LiveMachine]:
        """The machines that carry a role."""
        return [machine for machine in self.machines if role in machine.roles]

    def machine(self, name: str) -> LiveMachine:
        """A machine by its name.

        Raises:
            ToolchainError: there is none of that name.
        """
        for machine in self.machines:
            if machine.name == name:
                return machine
        raise ToolchainError(
            f"There is no machine {name!r}: it must be one of {', '.join(each.name for each in self.machines)}."
        )

    @property
    def by_kubeadm(self) -> bool:
        """Whether kubeadm made it: the control plane, etcd and kube-proxy are pods there, and no units."""
        return "kubeadm" in self.stack.features

    @property
    def nodes(self) -> list[LiveMachine]:
        """The machines whose kubelets are Nodes: the workers, and kubeadm's controllers."""
        return [*self.with_role(Role.WORKER), *(self.with_role(Role.CONTROLLER) if self.by_kubeadm else [])]

    @property
    def etcd_members(self) -> list[LiveMachine]:
        """The machines that carry an etcd member: dedicated ones, else the controllers."""
        return self.with_role(Role.ETCD) or self.with_role(Role.CONTROLLER)

    def ssh(
        self,
        machine: LiveMachine,
        script: str,
        *,
        stdin: str | None = None,
        seconds: float = 60,
        keepalive: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash script on a machine as root, however it ends; status 255 where the machine is not reached.

        Args:
            machine: where.
            script: stands in the command line: no secrets in it.
            stdin: what it reads; nothing if not given.
            seconds: how long it may take, before the lab's `timeout_factor`.
            keepalive: for what may take long: a machine that stops to answer is given up after 30 s, status 255.

        Raises:
            TimeoutExpired: it took longer.
        """
        options = access.keepalive(self.stack) if keepalive else []
        command = [*access.ssh_command(self.stack), *options, machine.name, machine.as_root(script)]
        return _run(command, stdin, self.allowed(seconds))

    def change(
        self,
        machine: LiveMachine,
        script: str,
        *,
        command: str,
        stdin: IO[bytes] | None = None,
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a bash script that changes a machine, as `ssh` does, with the machine's lock held (`machine_lock`).

        Args:
            machine: where.
            script: stands in the command line: no secrets in it.
            command: what it is part of, for those who wait for the lock: ./hardway restore.
            stdin: a file that is given to it; secrets may be in it.
            seconds: how long it may take once it has the lock, before the lab's `timeout_factor`.

        Raises:
            TimeoutExpired: it took longer.
        """
        allowed = {"wait": self.allowed(machine_lock.WAIT_SECONDS), "seconds": self.allowed(seconds)}
        locked = machine_lock.alone(script, command=command, **allowed)
        ssh = [*access.ssh_command(self.stack), *access.keepalive(self.stack)]
        return _run([*ssh, machine.name, machine.as_root(locked)], stdin, machine_lock.longest(**allowed))

    def kubectl(
        self, *arguments: str, stdin: str | None = None, seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run the lab's kubectl as its administrator, however it ends.

        Args:
            arguments: its own.
            stdin: what it reads; nothing if not given.
            seconds: how long it may take, before the lab's `timeout_factor`.

        Raises:
            TimeoutExpired: it took longer.
        """
        command = [*access.kubectl_command(self.stack), *arguments]
        return _run(command, stdin, self.allowed(seconds), access.kubectl_environment(self.stack))


def find(stack: Stack, *, halted_too: bool = False, part_too: bool = False) -> Cluster:
    """The lab of a stack.

    Args:
        stack: whose lab.
        halted_too: also one that is stopped, or whose rewind is not finished.
        part_too: also one that ends with a chapter.

    Raises:
        ToolchainError: it is not up, or does not run, or is only a part of a lab.
    """
    facts = access.read(stack, halted_too=halted_too)
    if (until := facts.get("until", chapters.COMPLETE)) != chapters.COMPLETE and not part_too:
        raise ToolchainError(
            f"This needs a whole lab, and {stack.name} is built up to the chapter {until!r}: "
            f"`./hardway up -s {stack.name}` builds the rest."
        )
    return Cluster(
        stack=stack,
        endpoint=facts["endpoint"],
        until=until,
        machines=[
            LiveMachine(
                name=machine["name"],
                roles=frozenset(map(Role, machine["roles"])),
                address=machine["address"],
                pod_cidr=machine["pod_cidr"],
                user=machine.get("user", "root"),
            )
            for machine in facts["machines"]
        ],
    )


def _run(
    command: Sequence[str], stdin: str | IO[bytes] | None, seconds: float, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    given: dict[str, Any] = {"input": stdin} if isinstance(stdin, str) else {"stdin": stdin or subprocess.DEVNULL}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=seconds, check=False, **given
    )
