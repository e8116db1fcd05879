"""What the substrate `gcp` may be told, below `lab.gcp`, and what is wrong with it.

Sources: https://cloud.google.com/compute/docs/regions-zones and https://cloud.google.com/vpc/docs/subnets
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints

from config.machines import MachineSpec
from config.problems import Problem
from config.values import AddressRange, Settings, WholeNumber

if TYPE_CHECKING:
    from config.settings import LabSettings

Region = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[a-z]+[0-9]+$")]
Zone = Annotated[str, StringConstraints(pattern=r"^[a-z]+-[a-z]+[0-9]+-[a-z]$")]
# The families that take a balanced persistent disk: https://cloud.google.com/compute/docs/machine-resource
MachineType = Annotated[
    str, StringConstraints(pattern=r"^(e2|n1|n2|n2d|t2d|t2a|c2|c2d|c3|c3d)-[a-z]+(-[0-9]+){0,2}$", max_length=40)
]
# Families whose publisher still supports them with security updates.
IMAGES = (
    "debian-cloud/debian-13",
    "debian-cloud/debian-13-arm64",
    "debian-cloud/debian-12",
    "debian-cloud/debian-12-arm64",
    "ubuntu-os-cloud/ubuntu-2404-lts-amd64",
    "ubuntu-os-cloud/ubuntu-2404-lts-arm64",
)
# https://cloud.google.com/compute/docs/labeling-resources
LabelKey = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]{0,63}$")]

THE_WORLD = IPv4Network("0.0.0.0/0")
_ARM = "t2a-"
# Names of Google's resources are labels of a DNS name.
_LONGEST_NAME = 63


class GcpSettings(Settings):
    """Where on Google Cloud, on what, and who may come in."""

    region: Region = "us-central1"
    zones: tuple[Zone, ...] = ()
    """The machines are spread over them by their addresses; where there is none, all are in the region's zone b."""
    sources: tuple[AddressRange, ...] = ()
    """Who reaches the machines by SSH and the API from outside: must be set; 0.0.0.0/0 lets the world in."""
    controller_type: MachineType = "e2-standard-2"
    """Of controllers and dedicated etcd members."""
    worker_type: MachineType = "e2-standard-2"
    image: str = IMAGES[0]
    """Project and family of the image."""
    addresses: Literal["static", "ephemeral"] = "static"
    """The machines' external addresses: reserved, or given by Google until the machine is stopped."""
    max_run_hours: Annotated[WholeNumber, Field(ge=1, le=120 * 24)] | None = None
    """Google deletes the machines after this time, with all that is on them."""
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=63)] = Field(default_factory=dict)
    """Of the machines, the addresses and the forwarding rule, beside `hardway-lab` and `hardway-key`."""
    load_balancing: Literal["regional", "classic"] = "regional"
    """A backend service that asks the API servers for /readyz, or a target pool that asks nginx for /healthz."""
    spot: Annotated[bool, Field(strict=True)] = False
    """Machines at a lower price that Google may stop at any time."""

    def zone_of(self, address: IPv4Address) -> str:
        """The zone of the machine with an address; no other machine changes it."""
        zones = self.zones or (f"{self.region}-b",)
        return zones[int(address) % len(zones)]


def arch_of(machine_type: str) -> str:
    """The architecture of a machine type, as Kubernetes names it."""
    return "arm64" if machine_type.startswith(_ARM) else "amd64"


def lab_problems(stack: str, settings: "LabSettings", machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    """What is wrong with a lab on Google Cloud."""
    if "load_balancers" in settings.model_fields_set and settings.load_balancers not in (0, ()):
        yield Problem(
            ("lab.load_balancers", "lab.substrate"),
            "on gcp a forwarding rule of Google balances the API servers, and no machine has HAProxy",
            "leave it out, or write 0",
        )
    if settings.load_balancing.mode == "terminate":
        yield Problem(
            ("lab.load_balancing.mode", "lab.substrate"),
            "HAProxy terminates TLS, and a lab on gcp has no HAProxy",
            "leave it out; lab.load_balancing.domain may stay",
        )
    yield from problems(settings.gcp, stack=stack, nodes=settings.network.nodes, machines=machines)


def problems(
    settings: GcpSettings, *, stack: str, nodes: IPv4Network, machines: Sequence[MachineSpec]
) -> Iterator[Problem]:
    """All that is wrong with the settings of a lab on Google Cloud."""
    yield from _sources(settings.sources)
    for position, zone in enumerate(settings.zones):
        at = f"lab.gcp.zones[{position}]"
        if not zone.startswith(f"{settings.region}-"):
            yield Problem(
                (at, "lab.gcp.region"),
                f"{zone} is no zone of the region {settings.region}",
                f"take zones like {settings.region}-b: the machines share one subnet, which has one region",
            )
        if zone in settings.zones[:position]:
            yield Problem((at,), f"{zone} is in the list already", "name each zone once")
    yield from _image(settings)
    if settings.spot and settings.max_run_hours is not None:
        yield Problem(
            ("lab.gcp.max_run_hours", "lab.gcp.spot"),
            "Google would delete a spot machine with its data at any time",
            "leave one of them out",
        )
    for label in sorted({"hardway-lab", "hardway-key"} & settings.labels.keys()):
        yield Problem(("lab.gcp.labels",), f"{label} is the lab's own label", "take another key")
    yield from _addresses(nodes, machines)
    for machine in machines:
        name = f"hardway-{stack}-{machine.name}"
        if len(name) > _LONGEST_NAME:
            yield Problem(
                (machine.key,),
                f"the instance's name {name} has {len(name)} letters, and Google takes {_LONGEST_NAME}",
                "give the machine or the stack a shorter name",
            )


def _sources(sources: Sequence[IPv4Network]) -> Iterator[Problem]:
    if not sources:
        yield Problem(
            ("lab.gcp.sources",),
            "not there: no client could reach the machines",
            "list the ranges of your clients, like 198.51.100.7/32; to allow all addresses, write 0.0.0.0/0",
        )
    elif THE_WORLD not in sources and THE_WORLD in collapse_addresses(sources):
        yield Problem(
            ("lab.gcp.sources",),
            "together these ranges contain all addresses",
            "if you want that, write 0.0.0.0/0",
        )


def _image(settings: GcpSettings) -> Iterator[Problem]:
    if settings.image not in IMAGES:
        yield Problem(
            ("lab.gcp.image",),
            f"{settings.image} is no supported image family",
            f"take one of {', '.join(IMAGES)}",
        )
        return
    of_image = "arm64" if "arm64" in settings.image.split("-") else "amd64"
    for key, machine_type in (
        ("controller_type", settings.controller_type),
        ("worker_type", settings.worker_type),
    ):
        if arch_of(machine_type) != of_image:
            yield Problem(
                (f"lab.gcp.{key}", "lab.gcp.image"),
                f"{machine_type} machines are {arch_of(machine_type)}, and the image {settings.image} is {of_image}",
                "take another type, or the family of the other architecture, like debian-cloud/debian-13-arm64",
            )


def _addresses(nodes: IPv4Network, machines: Sequence[MachineSpec]) -> Iterator[Problem]:
    if nodes.prefixlen > 29:
        yield Problem(
            ("lab.network.nodes",), f"Google's subnets have at most a prefix of 29, not {nodes.prefixlen}", "/24"
        )
        return
    for machine in machines:
        # The first two and the last are refused on every substrate.
        if machine.address == nodes[-2]:
            yield Problem(
                (machine.key, "lab.network.nodes"),
                f"{machine.name} cannot have the address {machine.address}: Google reserves the second last "
                "address of a subnet",
                "choose another address",
            )
