"""Writing versions and their sums into versions.yaml, from what upstream publishes.

What can be pinned: the products of versions.yaml by their names, `pulumi`, `plugin/NAME`, `image/NAME` and
`node-image-base`. A product's new version becomes the one that labs get; Kubernetes' is added to those that a lab may
ask for.
"""

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from config import versions as lab_versions
from config.versions import Image, Product
from toolchain import (
    checksum_list,
    download,
    node_image,
    paths,
    plugins,
    pulumi_cli,
    registry,
    system,
    versions,
    versions_file,
)
from toolchain.checksum import sha256_of
from toolchain.download import DownloadError
from toolchain.errors import ToolchainError
from toolchain.progress import Part, Report
from toolchain.versions import Plugin, Tools
from toolchain.versions_file import Edit

RELEASES = "https://"
_ARCHITECTURES = ("amd64", "arm64")
_NUMBERS = re.compile(r"\d+\.\d+\.\d+")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# Labs choose among its versions; of all others they get the default.
_CHOSEN_BY_LABS = "kubernetes"
_ALL = "all platforms"

Sums = Mapping[str, Mapping[str, str]]
"""What is pinned -> architecture -> sum."""


def write(
    report: Report, names: Sequence[str], version: str, *, releases: str = RELEASES, file: Path | None = None
) -> Path:
    """Pin one version of something, for every architecture.

    Args:
        report: shows the progress.
        names: what is pinned: `kubernetes`, `pulumi`, `plugin/tls`, `image/coredns`, ...; more than one is of use where
            they are released together.
        version: e.g. 1.36.5; one that is pinned already gets the pins that it lacks.
        releases: what stands before the path of a file that upstream publishes.
        file: the versions.yaml to change; this checkout's if not given.

    Returns:
        The file that was changed.

    Raises:
        ToolchainError: there is no such thing or version, a checksum cannot be read, or one differs from its pin;
            nothing is written.
    """
    file = file or paths.checkout() / "config" / "versions.yaml"
    known = _pinnable(file, releases)
    if unknown := [name for name in names if name not in known]:
        raise ToolchainError(
            f"config/versions.yaml has no {', '.join(unknown)}. What can be pinned: {', '.join(known)}."
        )
    wrong = [
        f"{version!r} is no version of {name}: it must be like {known[name].current}."
        for name in names
        if not known[name].pattern.fullmatch(version)
    ]
    if wrong:
        raise ToolchainError("\n".join(wrong))
    if any(isinstance(known[name], _Image | _NodeImageBase) for name in names):
        system.ensure(report, system.IMAGE_PULLS)
    edits: list[Edit] = []
    paths.scratch().mkdir(parents=True, exist_ok=True)
    for name in names:
        with (
            report.part(f"checksums of {name} {version}") as part,
            tempfile.TemporaryDirectory(prefix="pins-", dir=paths.scratch()) as work,
        ):
            sums = _published(known[name], name, version, part, Path(work))
        _check(f"{name} {version}", known[name].pinned(version), sums)
        edits += known[name].edits(version, sums)
    file.write_text(versions_file.changed(file.read_text(), edits))
    return file


class _Pinnable(Protocol):
    """Something whose versions and sums are in versions.yaml."""

    @property
    def current(self) -> str:
        """Its version there."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What its versions are like."""

    def pinned(self, version: str) -> Sums:
        """The sums of a version that are there; may lack some."""

    def published(self, version: str, part: Part, work: Path) -> Sums:
        """The sums that upstream publishes. What is downloaded for them is written into a directory."""

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        """What makes a version and its sums stand there."""


def _pinnable(file: Path, releases: str) -> dict[str, _Pinnable]:
    of_labs, tools = lab_versions.read(file), versions.read(file)
    return {
        **{name: _Product(product, releases) for name, product in of_labs.products.items()},
        "pulumi": _Pulumi(tools, releases),
        **{f"plugin/{name}": _Plugin(name, plugin, releases) for name, plugin in tools.plugins.items()},
        **{f"image/{name}": _Image(name, image) for name, image in of_labs.images.items()},
        "node-image-base": _NodeImageBase(node_image.base()),
    }


def _published(of: _Pinnable, name: str, version: str, part: Part, work: Path) -> Sums:
    try:
        return of.published(version, part, work)
    except ToolchainError as error:
        why = error.why if isinstance(error, DownloadError) else str(error)
        raise ToolchainError(f"The checksums of {name} {version} cannot be had. Nothing was written.\n{why}") from error


def _check(title: str, pinned: Sums, sums: Sums) -> None:
    """Refuse sums that are not those of versions.yaml: upstream never changes a release."""
    other = [
        f"  {what} for {arch}: pinned {pinned[what][arch]}, published {sum_}"
        for what, by_arch in sums.items()
        for arch, sum_ in by_arch.items()
        if pinned.get(what, {}).get(arch, sum_) != sum_
    ]
    if other:
        raise ToolchainError(
            f"What upstream publishes for {title} differs from config/versions.yaml:\n"
            + "\n".join(other)
            + "\nNothing was written. Find out who changed them before you change a pin."
        )


def _listed(url: str, file: str, part: Part) -> str:
    """The sum of a file in a list at a URL."""
    found = checksum_list.sum_of(download.text(url, part=part), file)
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
class _Pulumi:
    """The Pulumi command."""

    tools: Tools
    releases: str
    pattern: re.Pattern[str] = _NUMBERS

    @property
    def current(self) -> str:
        return self.tools.pulumi

    def pinned(self, version: str) -> Sums:
        return {"archive": self.tools.pulumi_archive} if version == self.current else {}

    def published(self, version: str, part: Part, work: Path) -> Sums:
        release = f"{self.releases}{pulumi_cli.RELEASES.removeprefix(RELEASES)}/v{version}"
        url = f"{release}/{pulumi_cli.checksums_name(version)}"
        return {
            "archive": {arch: _sha256_in(url, pulumi_cli.archive_name(version, arch), part) for arch in _ARCHITECTURES}
        }

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        place = ("tools", "pulumi")
        return [Edit(keys=(*place, "version"), value=version), Edit(keys=(*place, "archive"), value=sums["archive"])]


@dataclass(frozen=True)
class _Plugin:
    """A provider of Pulumi's."""

    name: str
    plugin: Plugin
    releases: str
    pattern: re.Pattern[str] = _NUMBERS

    @property
    def current(self) -> str:
        return self.plugin.version

    def pinned(self, version: str) -> Sums:
        return {"archive": self.plugin.archive} if version == self.current else {}

    def published(self, version: str, part: Part, work: Path) -> Sums:
        return {"archive": {arch: self._sum(version, arch, part, work) for arch in _ARCHITECTURES}}

    def _sum(self, version: str, arch: str, part: Part, work: Path) -> str:
        releases = f"{self.releases}{plugins.RELEASES.removeprefix(RELEASES)}"
        release = plugins.release_of(self.name, version, releases=releases)
        file = plugins.archive_name(self.name, version, arch)
        url = f"{release}/{plugins.checksums_name(self.name, version)}"
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

    def edits(self, version: str, sums: Sums) -> list[Edit]:
        place = ("tools", "plugins", self.name)
        return [Edit(keys=(*place, "version"), value=version), Edit(keys=(*place, "archive"), value=sums["archive"])]


@dataclass(frozen=True)
class _Image:
    """A container image, pinned by the digest of the index of all its platforms."""

    name: str
    image: Image
    pattern: re.Pattern[str] = _TAG

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
