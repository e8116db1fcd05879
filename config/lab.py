"""The lab as its stack's configuration describes it: the only reader of `pulumi.Config`.

`load()` reads the key `lab`, checks all of it and returns a `Lab`: plain, frozen Python that the rest of the program
takes its values from. Whatever is wrong is reported together, in one `ConfigError`, before any resource is registered.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.config import CONFIG

from config import (
    chapters,
    checks,
    choices,
    container_engine,
    creation_mark,
    destroy_mark,
    kubeadm,
    machine_database,
    machine_images,
    paths,
    rewind_mark,
    rotations,
    trust,
)
from config.archives import UNPACKED
from config.artifacts import UPSTREAM, ArtifactSource, read_checksums
from config.calico import CalicoSettings, kernel_modules
from config.machines import MachineSpec, Role
from config.own_machines import OwnMachine
from config.problems import ConfigError, Problem
from config.rotations import KEY as ROTATIONS
from config.rotations import Rotations
from config.settings import LabSettings, Network, planned, readable, versions_of
from config.substrates import SUBSTRATES

PROJECT = "hardway"
# Enough that they do not wait for each other's steps that wait, for a boot or an answer.
_WORKERS_FOR_EACH_PROCESSOR = 4


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
    engine: str
    """The container engine of the substrate `containers`: podman or docker."""
    cgroup_v2: bool
    """Whether the Pulumi host has cgroup v2 and no other."""
    arch: str
    """The architecture of the machines, as Kubernetes names it: amd64 or arm64."""
    own_machines: Mapping[str, OwnMachine] = field(default_factory=dict)
    """Machine name -> how it is reached, on the substrate `machines`."""
    trusted: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Host -> its public keys, as `./hardway trust` pinned them; see `trust`."""

    rotations: Rotations = field(default_factory=Rotations)
    """How far the rotations of its keys are."""
    until: str = chapters.COMPLETE
    """The last chapter that is built."""

    @property
    def network(self) -> Network:
        """The address ranges."""
        return self.settings.network

    @property
    def calico(self) -> CalicoSettings | None:
        """Calico's settings, where it is the pod network."""
        return self.settings.calico if self.network.pod_network == "calico" else None

    @property
    def kernel_modules(self) -> tuple[str, ...]:
        """What the machines' kernel needs beyond every lab's."""
        return kernel_modules(self.calico) if self.calico else ()

    @property
    def api_address(self) -> IPv4Address:
        """Where workers and people reach the API: the load balancer's own address, or the one that two share."""
        first, *others = self.with_role(Role.LOAD_BALANCER)
        return self.network.shared_address if others else first.address

    @property
    def ssh_key(self) -> Path:
        """Where `./hardway up` puts the key that opens the machines."""
        return paths.state() / self.name / "ssh_key"

    @property
    def unfinished_updates(self) -> Path:
        """The record of updates that did not finish."""
        return paths.state() / self.name / "unfinished.json"

    @property
    def workers_at_once(self) -> int:
        """How many workers are created at the same time.

        All, unless they share the processors of the Pulumi host: there a control plane that starts beside too many
        others does not serve within its deadline.
        """
        if self.settings.traits.on_engine:
            return _WORKERS_FOR_EACH_PROCESSOR * (os.cpu_count() or 1)
        return max(1, len(self.with_role(Role.WORKER)))

    def with_role(self, role: Role) -> tuple[MachineSpec, ...]:
        """The machines of one role, in the order of their names' numbers."""
        return tuple(machine for machine in self.machines if role in machine.roles)

    @property
    def choices(self) -> dict[str, str]:
        """What the lab is made with and cannot change while it is running."""
        return choices.choices_of(self.settings)

    @property
    def etcd_members(self) -> tuple[MachineSpec, ...]:
        """The machines that carry an etcd member each: dedicated ones, else the controllers."""
        return self.with_role(Role.ETCD) or self.with_role(Role.CONTROLLER)


def load() -> Lab:
    """Read and check the current stack's configuration.

    Raises:
        ConfigError: with all that is wrong.
        UserError: a rewind, a destroy or the first up of the lab is not finished, or it has a later chapter than it is
            to end with.
    """
    rewind_mark.check(pulumi.get_stack())
    destroy_mark.check(pulumi.get_stack())
    if not pulumi.runtime.is_dry_run():
        # A preview shows what the next `up` creates: all of it.
        creation_mark.check(pulumi.get_stack())
    document = _value("lab", {})
    known = [
        Problem((key,), "unknown key", f"the lab's keys stand below {PROJECT}:lab")
        for key in CONFIG.get()
        if key.startswith(f"{PROJECT}:") and key not in (f"{PROJECT}:lab", f"{PROJECT}:{ROTATIONS}")
    ]
    substrate = SUBSTRATES.get(str(document.get("substrate"))) if isinstance(document, dict) else None
    for key, (what, fix) in substrate.required.items() if substrate else ():
        if not CONFIG.get().get(key):
            known.append(Problem((key,), what, fix.format(stack=pulumi.get_stack())))
    lab = parse(pulumi.get_stack(), document, known, rotated=_value(ROTATIONS, None))
    chapters.check_is_next(lab.name, lab.until, paths.state())
    return lab


def _value(key: str, default: Any) -> Any:
    """What the configuration has for a key."""
    given = pulumi.Config(PROJECT).get(key)
    try:
        return json.loads(given) if given else default
    except json.JSONDecodeError:
        # A plain word, where a map should be.
        return given


def parse(stack: str, document: Any, known: Sequence[Problem] = (), *, rotated: Any = None) -> Lab:
    """Make a Lab of a stack's name and its `lab` value (see `LabSettings`); report it with the problems known already.

    Args:
        stack: its name.
        document: the value of the key `lab`.
        known: problems.
        rotated: the value of the key `rotations`.

    Raises:
        ConfigError: with all that is wrong: values that do not fit their key, and values that do not fit each other.
        UserError: the lab has no chapter to end with.
    """
    settings, problems = readable(document)
    own: Mapping[str, OwnMachine] = {}
    unreadable_hosts: list[Problem] = []
    if settings.traits.existing_hosts:
        found, unreadable_hosts = machine_database.read(settings.machines, paths.checkout())
        own = {machine.name: machine for _, machine in found}
        machines, unplaced = machine_database.place(settings, found)
    else:
        machines, unplaced = planned(stack, settings)
    if settings.bootstrap == "kubeadm":
        machines, without_pods = kubeadm.with_pods(machines, settings.network.pods, settings.network.node_prefix)
        unplaced = [*unplaced, *without_pods]
    unreadable = {problem.keys[0] for problem in problems}
    if unreadable_hosts and not any(_covers(bad, "lab.machines.database") for bad in unreadable):
        problems += unreadable_hosts
        unreadable.add("lab.machines.database")
    keys, wrong_rotations = rotations.parse(rotated)
    rotates = rotations.subjects_of(settings.bootstrap, settings.kubeadm.authorities)
    if issued := keys.written().keys() - set(rotates):
        what, fix = "not for a lab of kubeadm", f"remove it: only {', '.join(rotates)} (docs/certificates.md)"
        places = [f"{ROTATIONS}.{subject}" for subject in rotations.SUBJECTS if subject in issued]
        wrong_rotations = [*wrong_rotations, Problem(tuple(places), what, fix)]
    if "ssh" in keys.written() and not settings.traits.rotates_ssh:
        what = f"the substrate {settings.substrate!r} cannot change the SSH key of machines that exist"
        wrong_rotations = [*wrong_rotations, Problem((f"{ROTATIONS}.ssh",), what, "remove it")]
    problems = [*known, *wrong_rotations, *problems]
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
        node_image=settings.containers.image or machine_images.node_image(),
        engine=container_engine.chosen(stack, settings.containers.engine, paths.state()),
        cgroup_v2=container_engine.has_cgroup_v2(),
        arch=settings.traits.arch(settings),
        own_machines=own,
        trusted=trust.read(stack) if own else {},
        rotations=keys,
        until=chapters.last_chapter(settings.bootstrap),
    )


def _artifacts(settings: LabSettings, mirror: Path) -> ArtifactSource:
    """Where the machines find their artifacts: the mirror that their substrate brings to them, or upstream."""
    versions = versions_of(settings)
    base_url = settings.traits.base_url(settings)
    # What the Pulumi host's mirror holds may have been built here: its sums are not the releases'.
    sums, unpacked = ({} if base_url == UPSTREAM else read_checksums(place) for place in (mirror, mirror / UNPACKED))
    return ArtifactSource(base_url=base_url, versions=versions, checksums=sums, unpacked=unpacked)


def _covers(key: str, other: str) -> bool:
    """Whether one key is the other, or holds it, or stands in it."""
    outer, inner = sorted((key, other), key=len)
    return re.match(rf"{re.escape(outer)}($|[.\[])", inner) is not None
