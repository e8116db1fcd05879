"""One host as the rest of the program sees it: what every substrate returns, and all that it returns."""

from dataclasses import dataclass, field
from shlex import quote
from typing import Any

import pulumi
from pulumi_command import remote

from config.machines import MachineSpec, Role

# The provider's own default.
_PER_DIAL_SECONDS = 15


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One reachable host.

    Args:
        spec: its name, roles and addresses.
        connection: how to reach it by SSH; its host key is pinned.
        user: who that logs in: root, or a user whose sudo needs no password.
        identity: changes when the machine is recreated (a container's or an instance's id); every step has it among
            its inputs, so that a new machine gets all of its steps again.
        resource: the resource that goes when the machine goes; steps on it need not be undone then. None where the
            machine stays, and every step has to be taken back.
        arch: amd64 or arm64.
        interface: the network interface that has its address.
        shares_kernel: its kernel is its host's, too, so that swap, modules and global sysctls are not its own.
        routes_pods: it finds the other machines' pods by routes of its own, through their addresses, which are its
            next hops; False if the network of the substrate routes to pods.
        timeout_factor: what the deadlines of its steps, and of each dial, are multiplied by: more than 1 where it is
            slow.
    """

    spec: MachineSpec
    connection: remote.ConnectionArgs = field(repr=False)
    identity: pulumi.Input[str]
    resource: pulumi.Resource | None
    arch: str
    interface: str
    shares_kernel: bool
    routes_pods: bool = True
    timeout_factor: int = 1
    user: str = "root"

    def __post_init__(self) -> None:
        """Multiply how long one dial may take."""
        dials: list[Any] = [self.connection, self.connection.proxy]
        for dialled in dials if self.timeout_factor > 1 else []:
            if dialled is not None:
                dialled.per_dial_timeout = _PER_DIAL_SECONDS * self.timeout_factor

    @property
    def name(self) -> str:
        """Its host name, and its Node's name."""
        return self.spec.name

    @property
    def address(self) -> str:
        """Its IPv4 address in the machines' range."""
        return str(self.spec.address)

    def as_root(self, script: str) -> str:
        """The command by which the login user runs, in root's bash, a script; what is on standard input reaches it."""
        # By bash, whatever the login shell is.
        return f"{'' if self.user == 'root' else 'sudo -n '}bash -c {quote(script)}"

    def reads_script(self, title: str) -> str:
        """The command by which the login user runs, in root's bash, what it reads from standard input.

        Args:
            title: what errors and the list of processes call it.
        """
        return f"{'' if self.user == 'root' else 'sudo -n '}bash -s -- {title}"

    def has(self, role: Role) -> bool:
        """Whether the machine carries this role."""
        return role in self.spec.roles
