"""One stack as set-up knows it before the program runs: what its settings file says about what to set up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from config import container_engine, machine_database
from config.choices import choices_of
from config.own_machines import MachinesSettings
from config.settings import LabSettings, Network, PkiSettings, TimeoutFactor, planned, versions_of
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
        libvirt: the settings below `lab.libvirt`, as they are written.
        gcp_project: the project on Google Cloud; empty where none is written.
        kubernetes: the Kubernetes version.
        architectures: of its machines besides the Pulumi host's: amd64 or arm64.
        features: what it has that not every lab has, as versions.yaml says below `for`.
        choices: what it is made with and cannot change while it is running (config/choices.py); None where its settings
            cannot be read.
        versions: product -> version; None where its settings cannot be read.
        bootstrap: how its cluster is made.
        early_renewal_hours: how long before its end `up` renews a certificate.
        timeout_factor: what every deadline is multiplied by.
        addresses: machine -> host and port of its SSH server, of those that can be reached directly and are known.
        nodes, pods: the ranges of its machines and of its pods.
    """

    name: str
    project: str
    settings_file: Path
    substrate: str
    engine: str
    kubernetes: str
    libvirt: Mapping[str, Any] = field(default_factory=dict)
    gcp_project: str = ""
    architectures: Sequence[str] = ()
    features: frozenset[str] = frozenset()
    choices: Mapping[str, str] | None = None
    versions: Mapping[str, str] | None = None
    bootstrap: str = "hard-way"
    early_renewal_hours: int = PkiSettings().early_renewal_hours
    timeout_factor: int = 1
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    nodes: str = str(Network().nodes)
    pods: str = str(Network().pods)

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
    project = _mapping(yaml.safe_load((paths.checkout() / "Pulumi.yaml").read_text())).get("name", "")
    lab = _mapping(lab_of(file, str(project)))
    network = _mapping(lab.get("network"))
    return Stack(
        name=name,
        project=str(project),
        settings_file=file,
        substrate=str(lab.get("substrate", "containers")),
        engine=container_engine.chosen(name, _mapping(lab.get("containers")).get("engine"), paths.state()),
        libvirt=_mapping(lab.get("libvirt")),
        gcp_project=_gcp_project(file),
        kubernetes=str(_mapping(lab.get("versions")).get("kubernetes", pins().products["kubernetes"].default)),
        architectures=_architectures(lab),
        features=frozenset(str(choice) for choice in (lab.get("bootstrap"), network.get("pod_network")) if choice),
        choices=_choices(lab),
        versions=_versions(lab),
        bootstrap=str(lab.get("bootstrap", Stack.bootstrap)),
        early_renewal_hours=_hours(_mapping(lab.get("pki")).get("early_renewal_hours")),
        timeout_factor=_timeout_factor(lab.get("timeout_factor", Stack.timeout_factor)),
        addresses=_addresses(name, lab),
        nodes=str(network.get("nodes", Stack.nodes)),
        pods=str(network.get("pods", Stack.pods)),
    )


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is there twice, as Pulumi does: of two values it is unknown which one counts."""


def _unique(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    first: dict[Any, yaml.Node] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in first:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"line {key_node.start_mark.line + 1}: the key {key} is in line {first[key].start_mark.line + 1} "
                "already: write it once",
            )
        first[key] = key_node
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def lab_of(file: Path, project: str) -> Any:
    """What a settings file says about the lab, as it is written there.

    Pulumi takes the key `lab` for `<project>:lab`, and so does this.

    Raises:
        ToolchainError: it is not YAML, or what is in it is no configuration.
    """
    try:
        document = yaml.load(file.read_text(), Loader=_UniqueKeys)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ToolchainError(f"{file.name} is not valid YAML: {error}") from error
    for what, value in (("the file", document), ("config", _mapping(document).get("config"))):
        if value is not None and not isinstance(value, dict):
            raise ToolchainError(
                f"{file.name}: {what} is no map ({value!r}); nothing was changed.\n"
                f"  Write config:, below it {project}:lab:, and below that the lab's keys, as Pulumi.dev.yaml has them."
            )
    config = _mapping(_mapping(document).get("config"))
    keys = [key for key in (f"{project}:lab", "lab") if key in config]
    if len(keys) > 1:
        raise ToolchainError(
            f"{file.name}: config has both {keys[0]} and {keys[1]}, which mean the same; nothing was changed.\n"
            f"  Write {keys[0]} alone."
        )
    return config[keys[0]] if keys else None


def _gcp_project(file: Path) -> str:
    written = _mapping(_mapping(yaml.safe_load(file.read_text())).get("config")).get("gcp:project")
    return written if isinstance(written, str) else ""


def _architectures(lab: dict[str, Any]) -> list[str]:
    if not SUBSTRATES.get(str(lab.get("substrate")), NO_TRAITS).existing_hosts:
        return []
    try:
        settings = MachinesSettings.model_validate(_mapping(lab.get("machines")))
    except ValidationError:
        return []
    if settings.artifacts != "upload":
        return []
    found, _ = machine_database.read(settings, paths.checkout())
    return sorted({machine.arch for _, machine in found} - {architecture()})


def _choices(lab: dict[str, Any]) -> dict[str, str] | None:
    try:
        return choices_of(LabSettings.model_validate(lab))
    except ValidationError:
        return None


def _addresses(stack: str, lab: dict[str, Any]) -> dict[str, tuple[str, int]]:
    try:
        settings = LabSettings.model_validate(lab)
    except ValidationError:
        return {}
    if settings.traits.existing_hosts:
        hosts, _ = machine_database.read(settings.machines, paths.checkout())
        return {host.name: (str(host.address), host.port) for _, host in hosts if host.jumpbox is None}
    if not settings.traits.planned_addresses:
        return {}
    machines, _ = planned(stack, settings)
    return {machine.name: (str(machine.address), 22) for machine in machines}


def _versions(lab: dict[str, Any]) -> dict[str, str] | None:
    try:
        settings = LabSettings.model_validate(lab)
    except ValidationError:
        return None
    return versions_of(settings)


def _hours(value: Any) -> int:
    return value if isinstance(value, int) else Stack.early_renewal_hours


def _timeout_factor(value: Any) -> int:
    try:
        return TypeAdapter(TimeoutFactor).validate_python(value)
    except ValidationError:
        return Stack.timeout_factor


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
