"""The chapters of the hard way, in their order: what `up --until` ends with, and which components each one creates.

docs/chapters.md describes them, docs/pictures.md draws their components, and docs/by-hand.md has their commands.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config import recorded_state
from config.errors import UserError

VARIABLE = "HARDWAY_UNTIL"
"""By it the command line tells the program the last chapter. It is in no settings file: it holds for one run."""
_COMPONENT = "hardway:index:"
CERTIFICATES = ("/etc/etcd/pki/*", "/etc/kubernetes/pki/*", "/var/lib/kubelet/pki/*")
KUBECONFIGS = ("/etc/kubernetes/*.kubeconfig",)
ENCRYPTION = ("/etc/kubernetes/config/encryption.yaml",)


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One chapter.

    Args:
        name: as a user types it.
        title: of its part of the picture of the components.
        section: the title of its section in docs/chapters.md.
        components: the types of the components that it creates, without "hardway:index:".
        beyond: those of them that the guide does not have: `diff` does not ask for them.
        files: patterns of the files on the machines that it is about. Steps of later chapters write them, together with
            the unit that reads them.
    """

    name: str
    title: str
    section: str
    components: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


CHAPTERS = (
    Chapter(
        name="machines",
        title="Machines",
        section="3 Compute resources",
        components=("Containers", "Libvirt", "Gcp", "GcpBalancer", "Machines", "Host"),
    ),
    Chapter(
        name="certificates",
        title="Certificates",
        section="4 CAs and certificates",
        components=("Pki",),
        files=CERTIFICATES,
    ),
    Chapter(name="kubeconfigs", title="Kubeconfigs", section="5 Kubeconfigs", files=KUBECONFIGS),
    Chapter(
        name="encryption",
        title="Encryption",
        section="6 Data encryption",
        components=("Encryption",),
        files=ENCRYPTION,
    ),
    Chapter(
        name="etcd",
        title="etcd",
        section="7 etcd",
        components=("Etcd", "EtcdSnapshots"),
        beyond=("EtcdSnapshots",),
    ),
    Chapter(
        name="control-plane",
        title="Control plane",
        section="8 Control plane",
        # EtcdMembership removes members, which no API server may use any more.
        components=("ControlPlane", "EtcdMembership"),
    ),
    Chapter(
        name="load-balancer",
        title="Load balancer",
        section="8 Control plane",
        # KubeletAccess creates objects in the API, through the load balancer.
        components=("LoadBalancer", "VirtualAddress", "KubeletAccess"),
    ),
    Chapter(
        name="workers",
        title="Workers",
        section="9 Workers",
        # A Node is Ready once it has a pod network: with Calico that is in this chapter.
        components=(
            *("ContainerRuntime", "Worker", "NodeRegistration", "FormerWorkers"),
            *("Calico", "CalicoPlugin", "CalicoNetwork"),
        ),
    ),
    Chapter(name="pod-network", title="Pod network", section="11 Pod routes", components=("Neighbours",)),
    Chapter(name="dns", title="DNS and readiness", section="12 DNS", components=("Dns", "Rotations", "Readiness")),
)
NAMES = tuple(chapter.name for chapter in CHAPTERS)
COMPLETE = NAMES[-1]
"""A lab with this chapter is a whole lab."""


def chapter(name: str) -> Chapter:
    """A chapter by its name."""
    return CHAPTERS[NAMES.index(name)]


def following(name: str) -> Chapter | None:
    """The chapter after one; none after the last."""
    return next(iter(CHAPTERS[NAMES.index(name) + 1 :]), None)


def reaches(until: str, name: str) -> bool:
    """Whether a lab that ends with the chapter `until` has the chapter `name`."""
    return NAMES.index(name) <= NAMES.index(until or COMPLETE)


def reached(components: Iterable[str]) -> str:
    """The last chapter that has one of these components; empty if none has."""
    found = set(components)
    return next((each.name for each in reversed(CHAPTERS) if found.intersection(each.components)), "")


def reached_by(resources: Iterable[Mapping[str, Any]]) -> str:
    """The last chapter of which a state has something; empty if it has none. A killed run counts: it began it."""
    return reached(
        str(each["type"]).removeprefix(_COMPONENT)
        for each in resources
        if str(each.get("type")).startswith(_COMPONENT) and not each.get("delete")
    )


def refusal(stack: str, until: str, found: str) -> str:
    """Why a lab that has the chapter `found` cannot end with `until`; empty if it can.

    Pulumi would delete what the program no longer creates.
    """
    if not found or reaches(until, found):
        return ""
    return (
        f"Refused, and nothing was changed: the lab {stack} has the chapter {found!r} already, and "
        f"`--until {until}` would delete everything after {until!r}, with its data. To begin again there: "
        f"`./hardway destroy -s {stack}`, then `./hardway up -s {stack} --until {until}`."
    )


def check_is_next(stack: str, until: str, state: Path) -> None:
    """Refuse to end with a chapter if the lab has a later one, also where the user runs `pulumi up`.

    The command line refuses that with the state of any backend (toolchain/chapters.py). This reads files alone: the
    state, or, where the state is in no directory, what the last `./hardway up` wrote.

    Args:
        stack: the lab's name.
        until: the last chapter of this run.
        state: the directory with what this checkout keeps of its labs.

    Raises:
        UserError: the lab has a later one, or its files cannot be read.
    """
    if until == COMPLETE:
        return
    file = recorded_state.file_of(stack, state)
    found = reached_by(recorded_state.resources(file)) if file else _written(state / stack / "lab.json")
    if why := refusal(stack, until, found):
        raise UserError(why)


def _written(facts: Path) -> str:
    try:
        return str(json.loads(facts.read_text()).get("until", COMPLETE))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{facts} cannot be read ({error}): `./hardway up` writes it.") from error


def last_chapter(bootstrap: str) -> str:
    """The chapter that this run of the program ends with: of the environment, else the last one.

    Args:
        bootstrap: the bootstrap method.

    Raises:
        UserError: the variable has no name of a chapter, or the lab has no chapters.
    """
    until = os.environ.get(VARIABLE, "")
    if until and until not in NAMES:
        raise UserError(f"{VARIABLE}={until!r}: there is no such chapter. The chapters are {', '.join(NAMES)}.")
    if until:
        check_has_chapters(bootstrap)
    return until or COMPLETE


def check_has_chapters(bootstrap: str) -> None:
    """Refuse a lab that was not made the hard way.

    Raises:
        UserError: it has no chapters.
    """
    if bootstrap == "kubeadm":
        raise UserError(
            "The chapters are those of the hard way. With `bootstrap: kubeadm` one command, `kubeadm init`, makes the "
            "certificates, the kubeconfigs, etcd and the control plane: between them there is nowhere to stop. "
            "`kubeadm init phase --help` lists the phases that can be run alone."
        )
