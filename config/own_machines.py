"""What the substrate `machines` may be told: hosts that exist already, and how they are reached."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from config.machines import MachineName, Role
from config.values import Address, AddressRange, DnsDomain, Settings, WholeNumber

# Debian's useradd accepts capitals and dots, too.
_USER = "[a-zA-Z_][a-zA-Z0-9_.-]{0,31}"
_HOST = "[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?"


def _user_name(value: str) -> str:
    if not re.fullmatch(_USER, value):
        raise PydanticCustomError("user_name", "no user name")
    return value


UserName = Annotated[str, AfterValidator(_user_name)]
Port = Annotated[WholeNumber, Field(ge=1, le=65535)]
# One colon at the most: what a person writes after `ssh -J`.
Jumpbox = Annotated[str, StringConstraints(pattern=rf"^({_USER}@)?{_HOST}(:[0-9]{{1,5}})?$")]


class OwnMachine(Settings):
    """One host of the user's: what machines.txt says in a line, or the same as a map."""

    address: Address
    fqdn: DnsDomain
    name: MachineName
    pod_cidr: AddressRange | None = None
    """Workers only; the next free range of `lab.network.pods` where it is not set."""
    role: Role | None = None
    """A worker where it has a pod range, else a controller."""
    user: UserName = "root"
    """Who logs in: root, or a user who may use sudo."""
    port: Port = 22
    jumpbox: Jumpbox | None = None
    """[user@]host[:port] of the host that it is reached through; else directly."""
    arch: Literal["amd64", "arm64"] = "amd64"
    interface: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,15}$")] = "eth0"
    """The network interface that has its address: two load balancers announce theirs there."""


class MachinesSettings(Settings):
    """What the substrate `machines` may be told."""

    database: Annotated[
        Annotated[str, Tag("file")] | Annotated[tuple[OwnMachine, ...], Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "file"),
    ] = "machines.txt"
    """The hosts: a file as config/machines.example.txt shows it, or a list."""
    key: str | None = None
    """The file of the private key that opens them at first; an agent's keys and those in ~/.ssh where it is not set."""
    artifacts: Annotated[str, StringConstraints(pattern=r"^(upload|upstream|https?://[^\s'\"]+)$")] = "upload"
    """Where the machines get programs from: the Pulumi host, over SSH; the official releases; a mirror's URL."""
    shares_kernel: bool = False
    """Whether they are containers: kernel modules, swap and kernel settings are their host's then."""


def role_of(machine: OwnMachine) -> Role:
    """What a machine is for."""
    return machine.role or (Role.WORKER if machine.pod_cidr else Role.CONTROLLER)


def jumpbox_parts(jumpbox: str, *, user: str = "root") -> tuple[str, str, int]:
    """User, host and port of `[user@]host[:port]`."""
    login, _, rest = jumpbox.rpartition("@")
    host, _, port = rest.partition(":")
    return login or user, host, int(port or 22)


def mirror_directory() -> PurePosixPath:
    """Where a machine keeps what was uploaded to it."""
    return PurePosixPath("/var/lib/hardway/mirror")
