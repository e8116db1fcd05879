"""Pulling container images without a container engine, by Debian's skopeo, into archives that containerd imports.

skopeo compares what it gets with the digest that was asked for. Where none is known, the tag's digest is looked up
first, so that what is pulled has one, and can be asked for by it the next time.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Collection
from pathlib import Path

from config.versions import Image
from toolchain.command import run
from toolchain.errors import ToolchainError
from toolchain.progress import Part

# Digests are checked; signatures are not, so that the host's policy file is of no concern.
_SKOPEO = ("skopeo", "--insecure-policy", "--override-os", "linux")
_RETRIES = ("--retry-times", "3")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


def pull(part: Part, image: Image, archive: Path, arch: str, *, digest: str | None) -> str:
    """Pull one platform of an image.

    Args:
        part: shows the progress.
        image: what is pulled; the archive names it by its reference.
        archive: the tar file to write, in docker's format; must be absent.
        arch: amd64 or arm64.
        digest: what it must be: the digest of the index of all platforms, or of an image of one; the tag's if not
            given.

    Returns:
        The digest.

    Raises:
        ToolchainError: the registry refuses, the content is another one, or the image is not for this architecture.
    """
    try:
        digest = digest or _digest(_manifest(part, image, archive.with_name("index")))
        part.say("pulling")
        source = f"docker://{image.registry}/{image.repository}@{digest}"
        target = f"docker-archive:{archive}:{image.reference}"
        run(part, [*_SKOPEO, "--override-arch", arch, "copy", "--quiet", *_RETRIES, source, target])
    except ToolchainError as error:
        raise ToolchainError(
            f"The image {image.reference} ({digest or 'no digest is pinned'}) for {arch} cannot be pulled from "
            f"{image.registry}: {error}\n"
            "Make the registry reachable and run this again, or set TOOLCHAIN=source to build the images "
            "on the Pulumi host."
        ) from error
    found = _architecture(archive)
    if found != arch:
        raise ToolchainError(
            f"{image.registry} has {image.reference} ({digest}) for {found} only; this lab needs it for {arch}."
        )
    return digest


def digest_for(part: Part, image: Image, architectures: Collection[str], place: Path) -> str:
    """The digest of what the tag of an image names now.

    Args:
        part: shows the progress.
        image: what is looked up.
        architectures: those that it must be for.
        place: a file to write.

    Raises:
        ToolchainError: the registry does not have it, or not for all of the architectures.
    """
    manifest = _manifest(part, image, place)
    platforms = [one.get("platform", {}) for one in json.loads(manifest).get("manifests", [])]
    found = {one.get("architecture") for one in platforms if one.get("os") == "linux"}
    if lacking := sorted(set(architectures) - found):
        raise ToolchainError(f"{image.reference} is no image for {', '.join(lacking)}.")
    return _digest(manifest)


def _manifest(part: Part, image: Image, place: Path) -> bytes:
    """What the tag names now: the index of all platforms, or the manifest of an image of one."""
    part.say("looking up the digest")
    with place.open("wb") as manifest:
        run(part, [*_SKOPEO, "inspect", "--raw", *_RETRIES, f"docker://{image.reference}"], stdout=manifest)
    return place.read_bytes()


def _digest(manifest: bytes) -> str:
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def pinned_reference(image: Image, digest: str) -> str:
    """The name of an image of one digest, as records have it."""
    return f"{image.reference}@{digest}"


def digest_in(reference: str) -> str | None:
    """The digest that such a name has; None where it has none."""
    digest = reference.rpartition("@")[2]
    return digest if _DIGEST.fullmatch(digest) else None


def _architecture(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        (described,) = json.loads(_content(tar, "manifest.json"))
        return str(json.loads(_content(tar, described["Config"]))["architecture"])


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        raise ToolchainError(f"skopeo has written an archive without {name}: its format has changed.")
    return stream.read()
