"""Where a machine gets an artifact from, and what its checksum must be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.versions import pins

UPSTREAM = "https:/"
"""The base URL of the official releases: a path in versions.yaml starts with its host."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One pinned file: its URL, and the sha256 that it must have before it is used."""

    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ArtifactSource:
    """The place that holds all artifacts of a lab, in upstream's layout.

    Args:
        base_url: `file:///...`, `http(s)://...` or UPSTREAM; paths of versions.yaml are appended to it.
        versions: the version of each product in this lab.
        checksums: path -> sha256, as a mirror's SHA256SUMS lists them; the pins of versions.yaml serve where
            a path is not in it.
        unpacked: likewise, of the programs of archives that the mirror also has unpacked (config/archives.py).
    """

    base_url: str
    versions: Mapping[str, str]
    checksums: Mapping[str, str]
    unpacked: Mapping[str, str] = field(default_factory=dict)

    def artifact(self, product: str, *, arch: str, artifact: str | None = None) -> Artifact:
        """One file of a product, e.g. ("kubernetes", artifact="kubelet") or ("etcd")."""
        of = pins().products[product]
        version = self.versions[product]
        name = artifact or product
        path = of.path_of(name, version=version, arch=arch)
        return self._at(path, of.pin(name, version=version, arch=arch))

    def image(self, name: str, *, arch: str) -> Artifact:
        """The archive of a container image."""
        return self._at(pins().images[name].archive_path(arch), None)

    def member_sums(self, artifact: Artifact) -> Mapping[str, str]:
        """The sha256 of the programs of an archive, by their paths in it, where the machines' mirror has them unpacked.

        Only a mirror that machines have among their files does: elsewhere the archive is less to transfer.
        """
        folder = f"{artifact.url.removeprefix(f'{self.base_url}/')}/"
        if not self.base_url.startswith("file:"):
            return {}
        return {path.removeprefix(folder): sha256 for path, sha256 in self.unpacked.items() if path.startswith(folder)}

    @property
    def has_images(self) -> bool:
        """Whether image archives are there; a lab on upstream's releases pulls images from their registries."""
        return self.base_url != UPSTREAM

    def _at(self, path: str, pin: str | None) -> Artifact:
        # "published" makes the machine fetch the .sha256 that upstream has beside the file.
        return Artifact(url=f"{self.base_url}/{path}", sha256=self.checksums.get(path) or pin or "published")


def read_checksums(mirror: Path) -> dict[str, str]:
    """The SHA256SUMS of a local mirror as path -> sha256; empty where there is no mirror yet."""
    sums = mirror / "SHA256SUMS"
    if not sums.exists():
        return {}
    lines = (line.split(maxsplit=1) for line in sums.read_text().splitlines() if line and line[0] != "#")
    return {path.removeprefix("*").removeprefix("./"): sha256 for sha256, path in lines}
