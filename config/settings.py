"""What a person may write below the key `lab`: its keys, their types and defaults.

Values that are fine by themselves and wrong together are found by `checks`.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError

from config.calico import CalicoSettings
from config.extra_flags import ExtraFlags
from config.gcp import GcpSettings
from config.kubeadm import KubeadmSettings
from config.libvirt import LibvirtSettings
from config.machines import Machines, MachineSpec, plan_machines
from config.own_machines import MachinesSettings
from config.problems import Problem, from_validation, path_of
from config.substrates import Substrate, Traits, traits_of
from config.values import AddressRange, DnsDomain, Settings, WholeNumber
from config.versions import feature_of, pins

TimeoutFactor = Annotated[WholeNumber, Field(ge=1, le=100)]
# Certificates cannot say a year beyond 9999.
_CENTURY = 100 * 365 * 24


class Network(Settings):
    """Three address ranges that must not overlap, and how pods find each other."""

    nodes: AddressRange = IPv4Network("10.240.0.0/24")
    pods: AddressRange = IPv4Network("10.200.0.0/16")
    services: AddressRange = IPv4Network("10.32.0.0/24")
    node_prefix: Annotated[WholeNumber, Field(ge=16, le=29)] = 24
    """Length of the prefix that each worker gets out of `pods`."""
    max_pods: Annotated[WholeNumber, Field(ge=1, le=500)] = 110
    """Pods that a worker takes at the most."""
    domain: DnsDomain = "hardway.internal"
    """The machines' domain: a machine's FQDN is its name, the stack's and this."""
    cluster_domain: DnsDomain = "cluster.local"
    kube_proxy_mode: Literal["nftables", "iptables"] = "nftables"
    pod_network: Literal["routes", "calico"] = "routes"

    @property
    def gateway(self) -> IPv4Address:
        """The first address of the machines' range: the host's own."""
        return self.nodes[1]

    @property
    def shared_address(self) -> IPv4Address:
        """The fourth address of the machines' range: two load balancers share it."""
        return self.nodes[4]

    @property
    def api_service(self) -> IPv4Address:
        """The first service address: `kubernetes.default`."""
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        """The tenth service address: the cluster's DNS."""
        return self.services[10]


SubjectField = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 .'()-]*$", max_length=64)]


class SubjectSettings(Settings):
    """What the subject of each certificate has besides CN and O, by which Kubernetes knows users and groups."""

    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")] | None = None
    """C, of ISO 3166."""
    province: SubjectField | None = None
    """ST."""
    locality: SubjectField | None = None
    """L."""
    organizational_unit: SubjectField | None = None
    """OU."""


class PkiSettings(Settings):
    """Keys and validity of the certificates; hours."""

    algorithm: Literal["ECDSA-P256", "ECDSA-P384", "RSA-2048", "RSA-4096"] = "ECDSA-P256"
    ca_validity_hours: Annotated[WholeNumber, Field(ge=1, le=_CENTURY)] = 5 * 365 * 24
    validity_hours: Annotated[WholeNumber, Field(ge=1, le=_CENTURY)] = 365 * 24
    early_renewal_hours: Annotated[WholeNumber, Field(ge=0, le=_CENTURY)] = 30 * 24
    """An `up` that runs this long before a certificate ends renews it."""
    subject: SubjectSettings = SubjectSettings()


class LoadBalancing(Settings):
    """What the load balancers do with TLS."""

    mode: Literal["tcp", "terminate"] = "tcp"
    """Port 6443 passes it through in both; `terminate` adds port 443, where it ends at the balancer."""
    domain: DnsDomain | None = None
    """A name of the API's: in its certificate and in every machine's host table."""


class ContainersSettings(Settings):
    """What the substrate `containers` may be told."""

    engine: Literal["podman", "docker"] | None = None
    """What the lab runs on already, or what the Pulumi host has, where it is not set: see `container_engine`."""
    image: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.:/@-]*$")] | None = None
    """The node image; the one that the tool chain makes where it is not set."""
    vcpus: Annotated[WholeNumber, Field(ge=1, le=64)] | None = None
    """Processors that each machine may use at the most; all of the host's where it is not set."""
    memory_mib: Annotated[WholeNumber, Field(ge=512, le=1 << 20)] | None = None
    """Memory that each machine may use at the most, likewise."""


class LabSettings(Settings):
    """The key `lab`, as a person writes it."""

    substrate: Substrate = "containers"
    bootstrap: Literal["hard-way", "kubeadm"] = "hard-way"
    """How Kubernetes gets onto the machines."""
    kubeadm: KubeadmSettings = KubeadmSettings()
    controllers: Machines = 1
    etcd: Literal["stacked", "dedicated"] = "stacked"
    """Whether the controllers carry the etcd members, or machines of their own."""
    etcd_members: Machines = 3
    """The dedicated machines."""
    workers: Machines = 2
    max_unavailable: Annotated[WholeNumber, Field(ge=1)] = 1
    """How many workers may restart their programs, or be drained for that, at the same time."""
    load_balancers: Machines = 1
    """On gcp none: a forwarding rule of Google's takes their place."""
    load_balancing: LoadBalancing = LoadBalancing()
    network: Network = Network()
    calico: CalicoSettings = CalicoSettings()
    versions: dict[str, str] = Field(default_factory=dict)
    """Product -> version, for those that are not to have versions.yaml's default."""
    extra_flags: ExtraFlags = Field(default_factory=dict)
    """Flags beside those that the lab sets: see `extra_flags`."""
    pki: PkiSettings = PkiSettings()
    encryption: Literal["secretbox", "aescbc"] = "secretbox"
    """How Secrets are encrypted in etcd."""
    containers: ContainersSettings = ContainersSettings()
    gcp: GcpSettings = GcpSettings()
    libvirt: LibvirtSettings = LibvirtSettings()
    machines: MachinesSettings = MachinesSettings()
    timeout_factor: TimeoutFactor = 1
    """What every deadline is multiplied by: more than 1 where machines are slow, emulated ones for instance."""

    @property
    def traits(self) -> Traits:
        """What is particular about the substrate."""
        return traits_of(self.substrate)


def readable(document: Any) -> tuple[LabSettings, list[Problem]]:
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


def features(settings: LabSettings) -> frozenset[str]:
    """What the lab has that not every lab has, as versions.yaml names it below `for`."""
    default = pins().products["kubernetes"].default
    of_version = feature_of(settings.bootstrap, settings.versions.get("kubernetes", default))
    # The images of the hard way's programs do not exist.
    by_version = {of_version} if settings.bootstrap == "kubeadm" else set()
    return frozenset({settings.bootstrap, settings.network.pod_network, *by_version})


def versions_of(settings: LabSettings) -> dict[str, str]:
    """Product -> version, of all that the lab is made of."""
    products = pins().products_for(features(settings))
    return {product.name: settings.versions.get(product.name, product.default) for product in products}


def dedicated_members(settings: LabSettings) -> Machines:
    """The machines that carry an etcd member and nothing else: how many, or which."""
    return 0 if settings.etcd == "stacked" else settings.etcd_members


def load_balancers(settings: LabSettings) -> Machines:
    """The machines with HAProxy: how many, or which."""
    return 0 if settings.traits.own_balancer else settings.load_balancers


def planned(stack: str, settings: LabSettings) -> tuple[tuple[MachineSpec, ...], list[Problem]]:
    """The machines that the lab makes, and which of them could not be placed."""
    return plan_machines(
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
