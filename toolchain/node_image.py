"""The node image: a Debian machine with systemd, for labs whose machines are containers.

Its recipe is `node-image/`: the packages, a script that runs in the fresh root, and a Containerfile. Where a
container registry can be reached the image is built from the Containerfile; elsewhere mmdebstrap makes the same root
from Debian packages. An image that the other container engine of the Pulumi host has is copied from there. Its tag is
made from the recipe: another recipe is another image.
"""

import json
import re
from pathlib import Path

from config import machine_images
from config.versions import Image
from toolchain import origin, paths
from toolchain.command import ask, run
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import debian
from toolchain.progress import Part, Report
from toolchain.providers import Door, Provider
from toolchain.versions import tools

_CHANGES = ('CMD ["/sbin/init"]', "STOPSIGNAL SIGRTMIN+3", "ENV container=podman")
_REGISTRY = "docker.io"


def reference() -> str:
    """The image's name and tag, computed from the recipe alone."""
    return machine_images.node_image()


def base() -> Image:
    """What the Containerfile builds on; its tag moves, so versions.yaml has a digest."""
    named = re.search(r"(?m)^FROM (\S+?)/(\S+):(\S+)$", (machine_images.NODE_RECIPE / "Containerfile").read_text())
    if named is None:
        raise ToolchainError(
            f"{machine_images.NODE_RECIPE}/Containerfile names no image of a registry, with a tag, after FROM."
        )
    return Image(registry=named[1], repository=named[2], tag=named[3], archive="")


def packages() -> list[str]:
    """The Debian packages in it, in the recipe's order."""
    lines = (line.partition("#")[0].strip() for line in machine_images.PACKAGES.read_text().splitlines())
    return [line for line in lines if line]


def ensure(report: Report, engine: str) -> str:
    """Have the node image in a container engine.

    Args:
        report: shows the progress.
        engine: the engine's command: `podman` or `docker`.

    Returns:
        The image's reference.

    Raises:
        ToolchainError: the engine cannot be used, or the image cannot be made.
    """
    image = reference()
    with report.part(f"node image {image}") as part:
        if _present(engine, image):
            part.found()
            return image
        with exclusive(paths.locks() / f"node-image-{engine}", what="making the node image", part=part):
            if not _present(engine, image):
                _make(report, part, engine, image)
    return image


def _present(engine: str, image: str) -> bool:
    try:
        listing = ask(engine, "image", "inspect", image)
    except FileNotFoundError as missing:
        raise ToolchainError(
            f"The container engine {engine} is not installed; `./hardway setup` installs it."
        ) from missing
    # An engine that is not running, or not permitted, must not look like an image that is absent.
    if listing.returncode != 0 and not _says_absent(listing.stderr):
        raise ToolchainError(f"{engine} cannot be used: {listing.stderr.strip()}")
    return listing.returncode == 0 and bool(json.loads(listing.stdout))


def _has(engine: str, image: str) -> bool:
    """Whether an engine that need not be there has the image; one that cannot be used has none."""
    try:
        return _present(engine, image)
    except ToolchainError:
        return False


def _copy(part: Part, source: str, engine: str, image: str) -> None:
    archive = paths.scratch() / f"node-image-{engine}.tar"
    try:
        part.say(f"copying from {source}")
        run(part, [source, "save", "--output", archive, image])
        run(part, [engine, "load", "--input", archive])
    finally:
        archive.unlink(missing_ok=True)


def _says_absent(message: str) -> bool:
    return any(words in message.lower() for words in ("no such image", "image not known", "failed to find image"))


def _make(report: Report, part: Part, engine: str, image: str) -> None:
    other = {"podman": "docker", "docker": "podman"}.get(Path(engine).name)
    if other and _has(other, image):
        _copy(part, other, engine, image)
        return
    door: Door[str] = Door(
        releases=Provider(fetch=lambda image, _, part: _build(part, engine, image)),
        sources=Provider(fetch=lambda image, _, part: _import(part, engine, image)),
        release_of=lambda _: origin.pulled(_REGISTRY),
        name_of=lambda _: "node image",
        how="from Debian packages",
    )
    door.fetch(report, part, [image])


def _build(part: Part, engine: str, image: str) -> None:
    """From the Containerfile."""
    # crun, podman's default, refuses hosts that have both versions of cgroups; labs run on runc too.
    runtime = ["--runtime", "runc"] if Path(engine).name == "podman" else []
    pinned = paths.scratch() / f"Containerfile-{Path(engine).name}"
    pinned.parent.mkdir(parents=True, exist_ok=True)
    pinned.write_text(_with_pinned_base((machine_images.NODE_RECIPE / "Containerfile").read_text()))
    try:
        # docker looks for a file named Dockerfile.
        run(part, [engine, *runtime, "build", "--file", pinned, "--tag", image, machine_images.NODE_RECIPE])
    finally:
        pinned.unlink()


def _import(part: Part, engine: str, image: str) -> None:
    """From Debian packages."""
    root = paths.scratch() / f"node-image-{engine}.tar"
    try:
        debian.machine(part, root, packages=packages(), customise=machine_images.NODE_RECIPE / "customise.sh")
        part.say(f"importing into {engine}")
        changes = [word for change in _CHANGES for word in ("--change", change)]
        run(part, [engine, "import", *changes, root, image])
    finally:
        root.unlink(missing_ok=True)


def _with_pinned_base(containerfile: str) -> str:
    # The pin is no part of the recipe: with another one, the machines of running labs would get another image.
    return re.sub(r"(?m)^FROM \S+$", rf"\g<0>@{tools().node_image_base}", containerfile)
