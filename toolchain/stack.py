"""One stack as set-up knows it before the program runs: what its settings file says about what to set up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from config import container_engine, machine_database
from config.choices import choices_of
from config.own_machines import MachinesSettings
from config.settings import LabSettings, PkiSettings
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
        settings_file: Pulumi.<name>.yaml.
        substrate: what its machines are made of.
        engine: the container engine's command, for the substrate `containers`.
        libvirt: the settings below `lab.libvirt`, as they are written.
        kubernetes: the Kubernetes version.
        architectures: of its machines besides this host's: amd64 or arm64.
        features: what it has that not every lab has, as versions.yaml says below `for`.
        choices: what it is made with and cannot change while it is up (config/choices.py); None where its settings
            cannot be read.
        early_renewal_hours: how long before its end `up` renews a certificate.
    """

    name: str
    project: str
    settings_file: Path
    substrate: str
    engine: str
    kubernetes: str
    libvirt: Mapping[str, Any] = field(default_factory=dict)
    architectures: Sequence[str] = ()
    features: frozenset[str] = frozenset()
    choices: Mapping[str, str] | None = None
    early_renewal_hours: int = PkiSettings().early_renewal_hours

    @property
    def directory(self) -> Path:
        """Where the files are that make a lab reachable: kubeconfig, ssh_config, key."""
        return paths.state() / self.name


def read(name: str) -> Stack:
    """Read a stack's settings file, as far as set-up needs it. Wrong values are the program's to report.

    Raises:
        ToolchainError: there is no such file, or it is not YAML.
    """
    file = paths.checkout() / f"Pulumi.{name}.yaml"
    if not file.exists():
        known = sorted(path.name.split(".")[1] for path in paths.checkout().glob("Pulumi.*.yaml"))
        raise ToolchainError(f"There is no {file.name}. STACK must be one of: {', '.join(known)}.")
    project = _mapping(yaml.safe_load((paths.checkout() / "Pulumi.yaml").read_text())).get("name", "")
    try:
        config = _mapping(_mapping(yaml.safe_load(file.read_text())).get("config"))
    except yaml.YAMLError as error:
        raise ToolchainError(f"{file.name} is not valid YAML: {error}") from error
    lab = _mapping(config.get(f"{project}:lab"))
    network = _mapping(lab.get("network"))
    return Stack(
        name=name,
        project=str(project),
        settings_file=file,
        substrate=str(lab.get("substrate", "containers")),
        engine=container_engine.chosen(name, _mapping(lab.get("containers")).get("engine"), paths.state()),
        libvirt=_mapping(lab.get("libvirt")),
        kubernetes=str(_mapping(lab.get("versions")).get("kubernetes", pins().products["kubernetes"].default)),
        architectures=_architectures(lab),
        features=frozenset(str(choice) for choice in (lab.get("bootstrap"), network.get("pod_network")) if choice),
        choices=_choices(lab),
        early_renewal_hours=_hours(_mapping(lab.get("pki")).get("early_renewal_hours")),
    )


def _architectures(lab: dict[str, Any]) -> list[str]:
    if lab.get("substrate") != "machines":
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


def _hours(value: Any) -> int:
    return value if isinstance(value, int) else Stack.early_renewal_hours


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
