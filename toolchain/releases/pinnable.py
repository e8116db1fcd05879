"""What `pins` can pin: the products of versions.yaml by their names, `pulumi`, `plugin/NAME`, `image/NAME` and
`node-image-base`; for each, where upstream publishes its sums, and where they stand in versions.yaml.

A product's new version becomes the one that labs get; Kubernetes' is added to those that a lab may ask for.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from config import versions as lab_versions
from config.versions import Image, Product
from toolchain import node_image, plugins, pulumi_cli, versions
from toolchain.checksum import sha256_of
from toolchain.errors import ToolchainError
from toolchain.progress import Part
from toolchain.releases import download, registry
from toolchain.releases.versions_file import Edit

RELEASES = "https://"
_ARCHITECTURES = ("amd64", "arm64")
_NUMBERS = re.compile(r"\d+\.\d+\.\d+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# `sum  name`; some write `./name`, or `*name`. Lists with a signature have other lines, too.
_LINE = re.compile(r"([0-9a-fA-F]{40,128})\s+\*?(?:\./)?(\S+)")
# Labs choose among its versions; of all others they get the default.
_CHOSEN_BY_LABS = "kubernetes"
_ALL = "all platforms"

Sums = Mapping[str, Mapping[str, str]]
"""What is pinned -> architecture -> sum."""


class Pinnable(Protocol):
    """Something whose versions and sums are in versions.yaml."""

    @property
    def current(self) -> str:
        """Its version there."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What its versions are like."""

    @property
    def is_image(self) -> bool:
        """Whether its sums are in a container registry."""

    def pinned(self, version: str) -> Sums:
        """The sums of a version that are there; may lack some."""

    def published(self, version: str, part: Part, work: Path) -> Sums:
        """The sums that upstream publishes. What is downloaded for them is written into a directory."""

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        """What makes a version and its sums stand there."""


def all_of(file: Path, releases: str) -> dict[str, Pinnable]:
    """All that a file like versions.yaml pins.

    Args:
        file: it.
        releases: what stands before the path of a file that upstream publishes.
    """
    of_labs, tools = lab_versions.read(file), versions.read(file)
    return {
        **{name: _Product(product, releases) for name, product in of_labs.products.items()},
        "pulumi": _Pulumi(tools.pulumi, tools.pulumi_archive, ("tools", "pulumi"), releases),
        **{
            f"plugin/{name}": _Plugin(plugin.version, plugin.archive, ("tools", "plugins", name), releases)
            for name, plugin in tools.plugins.items()
        },
        # Those of a product have its versions.
        **{f"image/{name}": _Image(name, image) for name, image in of_labs.images.items() if image.product is None},
        "node-image-base": _NodeImageBase(node_image.base()),
    }


def sum_of(text: str, name: str) -> str | None:
    """The checksum of one file, in lower case: the list's, or the whole text where that is one sum without a name.

    None where there is none, or more than one.
    """
    if re.fullmatch(r"\s*[0-9a-fA-F]{40,128}\s*", text):
        return text.strip().lower()
    lines = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    sums = {line[1].lower() for line in lines if line and line[2] == name}
    return sums.pop() if len(sums) == 1 else None


def _listed(url: str, file: str, part: Part) -> str:
    """The sum of a file in a list at a URL."""
    found = sum_of(download.text(url, part=part), file)
    if found is None:
        raise ToolchainError(f"{url} has no single checksum of {file}: upstream has changed its layout.")
    return found


def _sha256_in(url: str, file: str, part: Part) -> str:
    found = _listed(url, file, part)
    if len(found) != hashlib.sha256().digest_size * 2:
        raise ToolchainError(f"{url} has no sha256 of {file}: upstream has changed its layout.")
    return found


@dataclass(frozen=True)
class _Product:
    """One of the lab's own: its files are in the mirror."""

    product: Product
    releases: str
    pattern: re.Pattern[str] = _NUMBERS
    is_image: bool = False

    @property
    def current(self) -> str:
        return self.product.default

    def pinned(self, version: str) -> Sums:
        return self.product.versions.get(version, {})

    def published(self, version: str, part: Part, work: Path) -> Sums:
        return {
            artifact: {arch: self._sum(artifact, version, arch, part, work) for arch in _ARCHITECTURES}
            for artifact in self.product.artifacts
        }

    def _sum(self, artifact: str, version: str, arch: str, part: Part, work: Path) -> str:
        path = self.product.path_of(artifact, version=version, arch=arch)
        checksums = self.product.checksums_of(artifact, version=version, arch=arch)
        if checksums is not None:
            return _sha256_in(self.releases + checksums, path.rpartition("/")[2], part)
        # Upstream publishes none: what comes over TLS now is what is pinned.
        return download.first_download(self.releases + path, work / f"{artifact}-{arch}", part=part)

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        name = self.product.name
        if name == _CHOSEN_BY_LABS:
            return [Edit(keys=(name, "versions", version), value=sums, first=True)]
        return [Edit(keys=(name, "default"), value=version), Edit(keys=(name, "versions"), value={version: sums})]


@dataclass(frozen=True)
class _Archive:
    """An archive for each architecture, with a version of its own below `tools`."""

    current: str
    archive: Mapping[str, str]
    place: tuple[str, ...]
    releases: str
    pattern: re.Pattern[str] = _NUMBERS
    is_image: bool = False

    def pinned(self, version: str) -> Sums:
        return {"archive": self.archive} if version == self.current else {}

    def published(self, version: str, part: Part, work: Path) -> Sums:
        return {"archive": {arch: self._sum(version, arch, part, work) for arch in _ARCHITECTURES}}

    def _sum(self, version: str, arch: str, part: Part, work: Path) -> str:
        raise NotImplementedError

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        return [
            Edit(keys=(*self.place, "version"), value=version),
            Edit(keys=(*self.place, "archive"), value=sums["archive"]),
        ]


class _Pulumi(_Archive):
    """The Pulumi command."""

    def _sum(self, version: str, arch: str, part: Part, work: Path) -> str:
        release = f"{self.releases}{pulumi_cli.RELEASES.removeprefix(RELEASES)}/v{version}"
        url = f"{release}/{pulumi_cli.checksums_name(version)}"
        return _sha256_in(url, pulumi_cli.archive_name(version, arch), part)


class _Plugin(_Archive):
    """A provider of Pulumi's; the last word of its place is its name."""

    def _sum(self, version: str, arch: str, part: Part, work: Path) -> str:
        name = self.place[-1]
        releases = f"{self.releases}{plugins.RELEASES.removeprefix(RELEASES)}"
        release = plugins.release_of(name, version, releases=releases)
        file = plugins.archive_name(name, version, arch)
        url = f"{release}/{plugins.checksums_name(name, version)}"
        listed = _listed(url, file, part)
        if len(listed) == hashlib.sha256().digest_size * 2:
            return listed
        # Most providers' releases list sums of SHA-1, which is no pin. It tells whether the archive came whole.
        archive = work / file
        download.first_download(f"{release}/{file}", archive, part=part)
        with archive.open("rb") as content:
            actual = hashlib.file_digest(content, "sha1").hexdigest()
        if actual != listed:
            raise ToolchainError(f"{release}/{file} has the SHA-1 {actual}, and {url} lists {listed}.")
        return sha256_of(archive)


@dataclass(frozen=True)
class _Image:
    """A container image, pinned by the digest of the index of all its platforms."""

    name: str
    image: Image
    pattern: re.Pattern[str] = _TAG
    is_image: bool = True

    @property
    def current(self) -> str:
        return self.image.tag

    def pinned(self, version: str) -> Sums:
        return _digest(self.image.digest) if version == self.current and self.image.digest else {}

    def published(self, version: str, part: Part, work: Path) -> Sums:
        image = replace(self.image, tag=version)
        return _digest(registry.digest_for(part, image, _ARCHITECTURES, work / "index"))

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        place, digest = ("images", self.name), sums["digest"][_ALL]
        return [Edit(keys=(*place, "tag"), value=version), Edit(keys=(*place, "digest"), value=digest)]


@dataclass(frozen=True)
class _NodeImageBase:
    """What the node image is built on. The recipe has its tag, which moves: another digest than the pin is no error."""

    image: Image
    is_image: bool = True

    @property
    def current(self) -> str:
        return self.image.tag

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.image.tag))

    def pinned(self, version: str) -> Sums:
        return {}

    def published(self, version: str, part: Part, work: Path) -> Sums:
        return _digest(registry.digest_for(part, self.image, _ARCHITECTURES, work / "index"))

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        return [Edit(keys=("tools", "node_image_base"), value=sums["digest"][_ALL])]


def _digest(digest: str) -> Sums:
    return {"digest": {_ALL: digest}}
