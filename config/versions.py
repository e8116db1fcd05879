"""The pinned versions, paths and checksums of `versions.yaml`."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from config import yaml_text


@dataclass(frozen=True, kw_only=True)
class Product:
    """Something upstream releases as a whole: one version number, one or more files (`artifacts`)."""

    name: str
    default: str
    artifacts: tuple[str, ...]
    path: str
    """Where upstream publishes a file, without the scheme; has {version}, {arch} and, with many files, {artifact}."""
    versions: Mapping[str, Mapping[str, Mapping[str, str]]]
    """version -> artifact -> architecture -> sha256 of the official file; may lack artifacts."""
    checksums: str | None
    """Where upstream publishes the sha256 of a file, without the scheme; has {path}, too. None: nowhere."""
    features: frozenset[str] = frozenset()
    """Only labs that have one of these need it; every lab where there are none."""

    def path_of(self, artifact: str, *, version: str, arch: str) -> str:
        """The path of one file; the same on upstream's host and below a mirror's base URL."""
        return self.path.format(version=version, arch=arch, artifact=artifact)

    def checksums_of(self, artifact: str, *, version: str, arch: str) -> str | None:
        """The path of the file that has the sum of one file: that sum alone, or a list; None where there is none."""
        path = self.path_of(artifact, version=version, arch=arch)
        return self.checksums and self.checksums.format(path=path, version=version, arch=arch, artifact=artifact)

    def pin(self, artifact: str, *, version: str, arch: str) -> str | None:
        """The sha256 of the official file, where versions.yaml has it."""
        return self.versions[version].get(artifact, {}).get(arch)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image, by the name it is pulled under and by its archive's path in a mirror."""

    registry: str
    repository: str
    tag: str
    archive: str
    digest: str | None = None
    """Of the index of all its platforms, `sha256:...`, where versions.yaml has it."""
    features: frozenset[str] = frozenset()
    """Only labs that have one of these need it; every lab where there are none."""
    product: str | None = None
    """Whose version is its tag; None where it has a tag of its own."""

    @property
    def reference(self) -> str:
        """As containerd and the kubelet name it, e.g. registry.k8s.io/pause:3.10.2."""
        return f"{self.registry}/{self.repository}:{self.tag}"

    def archive_path(self, arch: str) -> str:
        """The path of its archive below a mirror's base URL."""
        return self.archive.format(registry=self.registry, repository=self.repository, tag=self.tag, arch=arch)


@dataclass(frozen=True, kw_only=True)
class AptRepository:
    """A repository of Debian packages, and the key that signs it."""

    address: str
    """Has {minor}, the Kubernetes version without its last number."""
    fingerprint: str

    def url(self, version: str) -> str:
        """Where the packages of a Kubernetes version are."""
        return self.address.format(minor=version.rpartition(".")[0])


@dataclass(frozen=True, kw_only=True)
class Pins:
    """All of versions.yaml that a lab is made of."""

    products: Mapping[str, Product]
    images: Mapping[str, Image]
    packages: AptRepository
    """Of kubelet, kubeadm and kubectl."""

    def products_for(self, features: Collection[str]) -> list[Product]:
        """What a lab with these features needs."""
        return [of for of in self.products.values() if not of.features or of.features & set(features)]

    def images_for(self, features: Collection[str]) -> list[str]:
        """The names of the images that a lab with these features needs."""
        return [name for name, image in self.images.items() if not image.features or image.features & set(features)]


def versioned(name: str, version: str, default: str) -> str:
    """The name of an image that each version of a product has, among all images: that of the default has no number."""
    return name if version == default else f"{name}-{version}"


def feature_of(feature: str, version: str) -> str:
    """What a lab has that has a feature, in one version of Kubernetes."""
    return f"{feature}-{version}"


@cache
def pins() -> Pins:
    """Read versions.yaml, once."""
    return read(Path(__file__).with_name("versions.yaml"))


def read(file: Path) -> Pins:
    """Read a file that is like versions.yaml."""
    document: dict[str, Any] = yaml_text.load(file.read_text())
    images = document.pop("images")
    archive = images.pop("path")
    document.pop("tools")
    packages = document.pop("packages")
    products = {
        name: Product(
            name=name,
            default=entry["default"],
            artifacts=tuple(entry["artifacts"]),
            path=entry["path"],
            versions=entry["versions"],
            checksums=entry.get("checksums", "{path}.sha256"),
            features=frozenset(entry.get("for", ())),
        )
        for name, entry in document.items()
    }
    return Pins(
        products=products,
        images={
            each: image for name, entry in images.items() for each, image in _images(name, entry, archive, products)
        },
        packages=AptRepository(address=packages["url"], fingerprint=packages["fingerprint"]),
    )


def _images(
    name: str, entry: Mapping[str, Any], archive: str, products: Mapping[str, Product]
) -> Iterator[tuple[str, Image]]:
    features = entry.get("for", ())
    image = partial(
        Image,
        registry=entry["registry"],
        repository=entry["repository"],
        archive=archive,
        digest=entry.get("digest"),
    )
    if "product" not in entry:
        yield name, image(tag=entry["tag"], features=frozenset(features))
        return
    product = products[entry["product"]]
    for version in product.versions:
        of_version = frozenset(feature_of(each, version) for each in features)
        yield (
            versioned(name, version, product.default),
            image(tag=f"v{version}", product=product.name, features=of_version),
        )
