"""One stack as set-up knows it before the program runs: what its settings file says about what to set up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config import container_engine, machine_database, rotations, settings_file, version_changes
from config.choices import choices_of
from config.libvirt import LibvirtSettings
from config.machines import Role
from config.own_machines import role_of
from config.rotations import SUBJECTS, Rotations
from config.settings import LabSettings, Network, PkiSettings, features, planned, readable, versions_of
from config.substrates import NO_TRAITS, SUBSTRATES, Traits
from config.versions import pins
from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.versions import architecture


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack of this project.

    Args:
        name: as in `pulumi up --stack`.
        project: the name in Pulumi.yaml.
        settings_file: Pulumi.<name>.yaml; see `paths.settings_file`.
        substrate: what its machines are made of.
        engine: the container engine's command, for the substrate `containers`.
        libvirt: the settings below `lab.libvirt`.
        gcp_project: the project on Google Cloud; empty where none is written.
        kubernetes: the Kubernetes version.
        architectures: of its machines besides the Pulumi host's: amd64 or arm64.
        features: what it has that not every lab has, as versions.yaml says below `for`.
        choices: what it is made with and cannot change while it is running (config/choices.py); None where its settings
            cannot be read.
        versions: product -> version; None where its settings cannot be read.
        bootstrap: how its cluster is made.
        made_by: the same, as far as it decides which versions may change; the bootstrap method if not given.
        early_renewal_hours: how long before its end `up` renews a certificate.
        timeout_factor: what every deadline is multiplied by.
        addresses: machine -> host and port of its SSH server, of those that can be reached directly and are known.
        rotations: how far the rotations of its keys are; None where that cannot be read.
        rotates: which of its keys are rotated.
        nodes_by_name: the machines that are Nodes; none where its settings cannot be read.
        nodes, pods: the ranges of its machines and of its pods.
        network: all that its settings say of its network.
        domain: that its load balancer serves; empty where it serves none.
    """

    name: str
    project: str
    settings_file: Path
    substrate: str
    engine: str
    kubernetes: str
    libvirt: LibvirtSettings = field(default_factory=LibvirtSettings)
    gcp_project: str = ""
    architectures: Sequence[str] = ()
    features: frozenset[str] = frozenset()
    choices: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None
    bootstrap: str = "hard-way"
    made_by: str = ""
    early_renewal_hours: int = PkiSettings().early_renewal_hours
    timeout_factor: int = 1
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    rotations: Rotations | None = field(default_factory=Rotations)
    rotates: Sequence[str] = SUBJECTS
    nodes_by_name: Sequence[str] = ()
    nodes: str = str(Network().nodes)
    pods: str = str(Network().pods)
    network: Network = field(default_factory=Network)
    domain: str = ""

    @property
    def traits(self) -> Traits:
        """What is particular about its substrate; of an unknown one, which the program reports, nothing."""
        return SUBSTRATES.get(self.substrate, NO_TRAITS)

    @property
    def directory(self) -> Path:
        """Where the files are that make a lab reachable: kubeconfig, ssh_config, key."""
        return paths.state() / self.name


def names() -> list[str]:
    """The names of all stacks that a user may choose: those with a settings file in the checkout itself."""
    return sorted(path.name.split(".")[1] for path in paths.checkout().glob("Pulumi.*.yaml"))


def read(name: str) -> Stack:
    """Read a stack's settings file, as far as set-up needs it. Wrong values are the program's to report.

    Raises:
        ToolchainError: there is no such file, or it is not YAML.
    """
    file = paths.settings_file(name)
    if not file.exists():
        raise ToolchainError(f"There is no {file.name}. The stack must be one of: {', '.join(names())}.")
    of_tests = paths.stacks_of_tests() / file.name
    if file != of_tests and of_tests.exists():
        raise ToolchainError(
            f"There are two settings files for the stack {name}; nothing was changed:\n  {file}\n  {of_tests}\n"
            "The second is of a lab of the tests. Give the first another name; if it has nothing but the line "
            "encryptionsalt, which `pulumi stack init` writes, remove it."
        )
    project = settings_file.project(paths.checkout() / "Pulumi.yaml")
    document = settings_file.lab_of(file, project)
    # What is wrong is reported by the program.
    settings, problems = readable({} if document is None else document)
    rotated, wrong_rotations = rotations.parse(settings_file.rotations_of(file, project))
    is_known = not any(problem.keys[0] == "lab.substrate" for problem in problems)
    return Stack(
        name=name,
        project=project,
        settings_file=file,
        substrate=settings.substrate if is_known else "unknown",
        engine=container_engine.chosen(name, settings.containers.engine, paths.state()),
        libvirt=settings.libvirt,
        gcp_project=settings_file.text_of(file, "gcp:project"),
        kubernetes=settings.versions.get("kubernetes", pins().products["kubernetes"].default),
        architectures=_architectures(settings),
        features=features(settings),
        choices=None if problems else choices_of(settings),
        versions=None if problems else versions_of(settings),
        bootstrap=settings.bootstrap,
        made_by=version_changes.made_by(settings.bootstrap, settings.kubeadm.packages),
        early_renewal_hours=settings.pki.early_renewal_hours,
        timeout_factor=settings.timeout_factor,
        addresses={} if problems else _addresses(name, settings),
        rotations=None if wrong_rotations else rotated,
        rotates=rotations.subjects_of(settings.bootstrap, settings.kubeadm.authorities),
        nodes_by_name=() if problems else _nodes(name, settings),
        nodes=str(settings.network.nodes),
        pods=str(settings.network.pods),
        network=settings.network,
        domain=settings.load_balancing.domain or "",
    )


def _architectures(settings: LabSettings) -> list[str]:
    if not settings.traits.existing_hosts or settings.machines.artifacts != "upload":
        return []
    found, _ = machine_database.read(settings.machines, paths.checkout())
    return sorted({machine.arch for _, machine in found} - {architecture()})


def _addresses(stack: str, settings: LabSettings) -> dict[str, tuple[str, int]]:
    if settings.traits.existing_hosts:
        hosts, _ = machine_database.read(settings.machines, paths.checkout())
        return {host.name: (str(host.address), host.port) for _, host in hosts if host.jumpbox is None}
    if not settings.traits.planned_addresses:
        return {}
    machines, _ = planned(stack, settings)
    return {machine.name: (str(machine.address), 22) for machine in machines}


def _nodes(stack: str, settings: LabSettings) -> list[str]:
    # Where kubeadm makes the cluster, its controllers are Nodes, too.
    roles = {Role.WORKER, *([Role.CONTROLLER] if settings.bootstrap == "kubeadm" else [])}
    if settings.traits.existing_hosts:
        hosts, _ = machine_database.read(settings.machines, paths.checkout())
        return [host.name for _, host in hosts if role_of(host) in roles]
    machines, _ = planned(stack, settings)
    return [machine.name for machine in machines if machine.roles & roles]
