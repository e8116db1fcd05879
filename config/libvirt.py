"""What the substrate `libvirt` may be told, and what is wrong with it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from config.machines import Role
from config.problems import Problem
from config.values import Settings, WholeNumber

MIRROR_PORT = 8471
"""Where the machines find the artifact mirror, on the first address of their range."""


@dataclass(frozen=True, kw_only=True)
class MachineSize:
    """What a machine is given."""

    vcpus: int
    memory_mib: int
    disk_gib: int


_SIZES = {
    Role.CONTROLLER: MachineSize(vcpus=2, memory_mib=2048, disk_gib=10),
    Role.ETCD: MachineSize(vcpus=1, memory_mib=1024, disk_gib=6),
    Role.WORKER: MachineSize(vcpus=2, memory_mib=2048, disk_gib=20),
    Role.LOAD_BALANCER: MachineSize(vcpus=1, memory_mib=512, disk_gib=4),
}


class SizeSettings(Settings):
    """What machines of one role are given, where their role's own does not fit."""

    vcpus: Annotated[WholeNumber, Field(ge=1, le=64)] | None = None
    memory_mib: Annotated[WholeNumber, Field(ge=512, le=1 << 20)] | None = None
    disk_gib: Annotated[WholeNumber, Field(ge=4, le=4096)] | None = None


class LibvirtSettings(Settings):
    """The keys below `lab.libvirt`."""

    # Of the Pulumi host: the machines' network is one of its own, and they are reached through it.
    uri: Annotated[str, StringConstraints(pattern=r"^qemu:///system(\?[A-Za-z0-9_=&./-]*)?$")] = "qemu:///system"
    type: Literal["kvm", "qemu"] = "kvm"
    """qemu emulates the processor: five to ten times slower, and it works where there is no KVM."""
    image: Annotated[str, StringConstraints(pattern=r"^(https?://|/)[A-Za-z0-9_.:/@%+=~-]+$")] | None = None
    """URL or absolute path of a cloud image; the one that the tool chain makes where it is not set."""
    image_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    pool: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9_./-]+$")] = "/var/lib/libvirt/hardway"
    """A directory; the lab's disks are in one of its own in it."""
    controller: SizeSettings = SizeSettings()
    etcd: SizeSettings = SizeSettings()
    worker: SizeSettings = SizeSettings()
    load_balancer: SizeSettings = SizeSettings()

    def size(self, roles: frozenset[Role]) -> MachineSize:
        """What a machine of these roles is given."""
        (role,) = roles
        given = {
            Role.CONTROLLER: self.controller,
            Role.ETCD: self.etcd,
            Role.WORKER: self.worker,
            Role.LOAD_BALANCER: self.load_balancer,
        }[role]
        return replace(_SIZES[role], **given.model_dump(exclude_none=True))


def problems(settings: LibvirtSettings) -> Iterator[Problem]:
    """What is wrong with values that are fine by themselves."""
    by_url = (settings.image or "/").startswith("http")
    if by_url and settings.image_sha256 is None:
        yield Problem(
            ("lab.libvirt.image_sha256", "lab.libvirt.image"),
            "an image from a URL needs a checksum",
            "set the sha256 that its publisher signed; `sha256sum` shows that of a file",
        )
    if settings.image_sha256 is not None and settings.image is None:
        yield Problem(
            ("lab.libvirt.image_sha256", "lab.libvirt.image"),
            "there is no image that it could be the checksum of",
            "leave it out, or write the image's URL or path",
        )
