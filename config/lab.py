"""The lab as its stack's configuration describes it: the only reader of `pulumi.Config`.

`load()` reads the key `lab`, checks all of it and returns a `Lab`: plain, frozen Python that the rest of the program
takes its values from. Whatever is wrong is reported together, in one `ConfigError`, before any resource is registered.
"""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG
from pydantic import ValidationError

from config import checks, libvirt
from config.artifacts import UPSTREAM, ArtifactSource, read_checksums
from config.gcp import arch_of
from config.machines import MachineSpec, Role, plan_machines
from config.problems import ConfigError, Problem, from_validation, path_of
from config.settings import LabSettings, Network, dedicated_members, load_balancers
from config.versions import pins
from toolchain import node_image, paths

PROJECT = "hardway"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A valid lab: everything decided that can be decided before a machine exists."""

    name: str
    """The stack's name; it stands in every name the lab makes on a host that other labs share."""
    settings: LabSettings
    machines: tuple[MachineSpec, ...]
    artifacts: ArtifactSource
    mirror: Path
    """The local artifact mirror."""
    node_image: str
    arch: str
    """The architecture of the machines, as Kubernetes names it: amd64 or arm64."""

    @property
    def network(self) -> Network:
        """The address ranges."""
        return self.settings.network

    @property
    def api_address(self) -> IPv4Address:
        """Where workers and people reach the API: the load balancer's own address, or the one that two share."""
        first, *others = self.with_role(Role.LOAD_BALANCER)
        return self.network.shared_address if others else first.address

    def with_role(self, role: Role) -> tuple[MachineSpec, ...]:
        """The machines of one role, in the order of their names' numbers."""
        return tuple(machine for machine in self.machines if role in machine.roles)

    @property
    def etcd_members(self) -> tuple[MachineSpec, ...]:
        """The machines that carry an etcd member each: dedicated ones, else the controllers."""
        return self.with_role(Role.ETCD) or self.with_role(Role.CONTROLLER)


def load() -> Lab:
    """Read and check the current stack's configuration.

    Raises:
        ConfigError: with all that is wrong.
    """
    given = pulumi.Config(PROJECT).get("lab")
    try:
        document = json.loads(given) if given else {}
    except json.JSONDecodeError:
        # A plain word, where a map should be.
        document = given
    known = [
        Problem((key,), "unknown key", f"the lab's keys stand below {PROJECT}:lab")
        for key in CONFIG.get()
        if key.startswith(f"{PROJECT}:") and key != f"{PROJECT}:lab"
    ]
    if isinstance(document, dict) and document.get("substrate") == "gcp" and not CONFIG.get().get("gcp:project"):
        known.append(
            Problem(
                ("gcp:project",),
                "not there: a lab on Google Cloud stands in a project",
                f"`pulumi config set gcp:project YOUR-PROJECT -s {pulumi.get_stack()}`",
            )
        )
    return parse(pulumi.get_stack(), document, known)


def parse(stack: str, document: Any, known: Sequence[Problem] = ()) -> Lab:
    """Make a Lab of a stack's name and its `lab` value (see `LabSettings`); report it with the problems known already.

    Raises:
        ConfigError: with all that is wrong: values that do not fit their key, and values that do not fit each other.
    """
    settings, problems = _validate(document)
    machines, unplaced = plan_machines(
        stack=stack,
        controllers=settings.controllers,
        etcd_members=dedicated_members(settings),
        workers=settings.workers,
        load_balancers=load_balancers(settings),
        nodes=settings.network.nodes,
        pods=settings.network.pods,
        node_prefix=settings.network.node_prefix,
        domain=settings.network.domain,
    )
    unreadable = {problem.keys[0] for problem in problems}
    problems = [*known, *problems]
    for problem in [*unplaced, *checks.run(stack, settings, machines)]:
        # A finding that rests on a value which could not be read in the first place would only mislead.
        if not any(_covers(bad, key) for bad in unreadable for key in problem.keys):
            problems.append(problem)
    if problems:
        raise ConfigError(stack, problems)
    mirror = paths.mirror()
    return Lab(
        name=stack,
        settings=settings,
        machines=machines,
        artifacts=_artifacts(settings, mirror),
        mirror=mirror,
        node_image=settings.containers.image or node_image.reference(),
        arch=_arch(settings),
    )


def _artifacts(settings: LabSettings, mirror: Path) -> ArtifactSource:
    """Where the machines find their artifacts: the mirror that their substrate brings to them, or upstream."""
    versions = {name: settings.versions.get(name, of.default) for name, of in pins().products.items()}
    match settings.substrate:
        case "containers":
            base_url = "file:///opt/mirror"
        case "libvirt":
            base_url = f"http://{settings.network.gateway}:{libvirt.MIRROR_PORT}"
        case "gcp":
            # What this host's mirror holds may have been built here: its sums are not the releases'.
            return ArtifactSource(base_url=UPSTREAM, versions=versions, checksums={})
    return ArtifactSource(base_url=base_url, versions=versions, checksums=read_checksums(mirror))


def _arch(settings: LabSettings) -> str:
    if settings.substrate == "gcp":
        return arch_of(settings.gcp.worker_type)
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _validate(document: Any) -> tuple[LabSettings, list[Problem]]:
    """The settings with every value that cannot be read left at its default, and what is wrong with those."""
    if not isinstance(document, dict):
        return LabSettings(), [Problem(("lab",), f"{document!r} is no map", "write the lab's keys below it")]
    try:
        return LabSettings.model_validate(document), []
    except ValidationError as error:
        # Keep what is readable, so that its cross checks run too and everything is reported at once.
        readable = document
        for detail in error.errors():
            readable = _without(readable, path_of(detail))
        return LabSettings.model_validate(readable), from_validation(error)


def _without(document: dict[str, Any], path: Sequence[int | str]) -> dict[str, Any]:
    """The document without the value at a path; without the whole list where one of its entries holds the value."""
    key, *rest = path
    inner = document.get(str(key))
    kept = {other: value for other, value in document.items() if other != key}
    return {**kept, str(key): _without(inner, rest)} if rest and isinstance(inner, dict) else kept


def _covers(key: str, other: str) -> bool:
    """Whether one key is the other, or holds it, or stands in it."""
    outer, inner = sorted((key, other), key=len)
    return re.match(rf"{re.escape(outer)}($|[.\[])", inner) is not None
