"""What machines can be made of: one row of traits for each substrate.

A new substrate is a folder in `components/substrates/` and a row here. Whatever depends on the substrate asks for a
trait, and never for a name.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from config import gcp, libvirt
from config.artifacts import UPSTREAM
from config.machine_images import own_arch
from config.machines import MachineSpec
from config.own_machines import mirror_directory
from config.problems import Problem

if TYPE_CHECKING:
    from config.settings import LabSettings


def _no_problems(stack: str, settings: "LabSettings", machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    yield from ()


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is particular about one substrate.

    Args:
        component: module and class that make the machines, see `components.substrate.Substrate`.
        operations: module and class with what the tool chain and operations on a running lab ask of the substrate.
        base_url: where the machines get their artifacts from.
        arch: of the machines, as Kubernetes names it.
        mirror: whether machines get their artifacts from the mirror of the Pulumi host.
        root_for: what only root may make on the Pulumi host; empty where any user can run `up`.
        plugin: the provider plugin beside `command` and `tls`.
        machine: the type of the resource that is a machine, and how its name ends after the machine's; None where a
            machine cannot be replaced by Pulumi.
        packages: the groups of system packages that the Pulumi host needs, see `toolchain/system.py`.
        image: what machines begin with: the node image of a container engine, or the disk of a virtual machine.
        on_engine: whether machines are containers of an engine on the Pulumi host: a drill can switch them off, and
            the host's firewall and its record of labs concern them.
        existing_hosts: whether the machines exist before the lab, and a machine database describes them.
        own_balancer: whether the substrate balances the API itself, without a machine for it.
        planned_addresses: whether machines are reached by the addresses that are planned for them.
        rotates_ssh: whether machines that exist can get another SSH key of the lab (components/ssh_keys.py).
        routes_every_pod: whether the network brings packets to pods on controllers, too.
        deletes_again: whether every deletion of a lab succeeds if what it deletes is gone already, the machines too.
        removes_unsaved: whether its operations remove from the host all of a lab that is in no state, by its identity.
        problems: what is wrong with a lab's settings on this substrate; of a stack, its settings and machines.
        required: what a stack must have beside the key `lab` -> what is wrong without it, and what to write.
    """

    component: str
    operations: str = "components.substrates.operations:Operations"
    base_url: "Callable[[LabSettings], str]"
    arch: "Callable[[LabSettings], str]" = lambda settings: own_arch()
    mirror: bool = True
    root_for: str = ""
    plugin: str | None = None
    machine: tuple[str, str] | None = ("command:local:Command", "")
    packages: tuple[str, ...] = ()
    image: Literal["node", "disk"] | None = None
    on_engine: bool = False
    existing_hosts: bool = False
    own_balancer: bool = False
    planned_addresses: bool = True
    rotates_ssh: bool = False
    routes_every_pod: bool = True
    deletes_again: bool = False
    removes_unsaved: bool = False
    problems: "Callable[[str, LabSettings, Sequence[MachineSpec]], Iterator[Problem]]" = _no_problems
    required: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def load(self) -> Any:
        """The class that makes the machines. Loaded by the lab that needs it: some SDKs take seconds."""
        return _class(self.component)

    def load_operations(self) -> Any:
        """An instance of the class of its operations. Loaded by the command that needs it."""
        return _class(self.operations)()


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


SUBSTRATES: dict[str, Traits] = {
    "containers": Traits(
        component="components.substrates.containers.substrate:Containers",
        operations="components.substrates.containers.operations:ContainerOperations",
        base_url=lambda settings: "file:///opt/mirror",
        root_for="privileged containers",
        packages=("engine", "node-image"),
        image="node",
        on_engine=True,
        rotates_ssh=True,
        # By container id, by name and owner, or for nothing at all: steps go with their containers.
        deletes_again=True,
        # Everything has the lab's name, and a record on the host says whose that is.
        removes_unsaved=True,
    ),
    "gcp": Traits(
        component="components.substrates.gcp.substrate:Gcp",
        base_url=lambda settings: UPSTREAM,
        arch=lambda settings: gcp.arch_of(settings.gcp.worker_type),
        mirror=False,
        plugin="gcp",
        machine=("gcp:compute/instance:Instance", ""),
        own_balancer=True,
        planned_addresses=False,
        rotates_ssh=True,
        routes_every_pod=False,
        problems=gcp.lab_problems,
        required={
            "gcp:project": (
                "not there: a lab on Google Cloud stands in a project",
                "write `gcp:project: YOUR-PROJECT` below `config` in Pulumi.{stack}.yaml",
            )
        },
    ),
    "libvirt": Traits(
        component="components.substrates.libvirt.substrate:Libvirt",
        base_url=lambda settings: f"http://{settings.network.gateway}:{libvirt.MIRROR_PORT}",
        root_for="virtual machines",
        plugin="libvirt",
        # The machine comes and goes with its disk, and without it would find the old one.
        machine=("libvirt:index/volume:Volume", "-disk"),
        packages=("libvirt", "node-image"),
        image="disk",
        rotates_ssh=True,
    ),
    "machines": Traits(
        component="components.substrates.existing.substrate:Machines",
        operations="components.substrates.existing.operations:HostOperations",
        base_url=lambda settings: {"upstream": UPSTREAM, "upload": f"file://{mirror_directory()}"}.get(
            settings.machines.artifacts, settings.machines.artifacts.rstrip("/")
        ),
        machine=None,
        existing_hosts=True,
        rotates_ssh=True,
    ),
}
NO_TRAITS = Traits(component="", base_url=lambda settings: UPSTREAM)
"""For set-up, where the settings name no substrate that has a row: the program reports that."""


def traits_of(name: str) -> Traits:
    """The row of a substrate.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in SUBSTRATES:
        raise ValueError(_unknown())
    return SUBSTRATES[name]


def _unknown() -> str:
    *others, last = (repr(name) for name in SUBSTRATES)
    return f"Input should be {', '.join(others)} or {last}"


def _known(name: str) -> str:
    if name not in SUBSTRATES:
        raise PydanticCustomError("substrate", "{known}", {"known": _unknown()})
    return name


Substrate = Annotated[str, AfterValidator(_known)]
"""The name of a substrate that has a row."""
