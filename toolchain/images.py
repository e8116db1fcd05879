"""Fills the mirror with archives of the container images that a lab runs: pause and CoreDNS, and those of its checks.

Pulled from their registries where these can be reached; elsewhere made here (`image_recipes`).
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from config.versions import pins
from toolchain import origin, paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_recipes import RECIPES, foundation
from toolchain.from_source.statements import statements
from toolchain.ledger import Ledger
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.providers import Door, Provider
from toolchain.releases import registry
from toolchain.versions import architecture

_Write = Callable[[Part, str, Path, str, Ledger], tuple[Origin, str]]
"""Writes an image's archive, and returns what the ledger is to say of it."""
_IMPORTS = re.compile(r"(?m)^from (toolchain[\w.]*) import (.+)\n")


def ensure(report: Report, features: Collection[str], *, arch: str | None = None) -> None:
    """Have the archives of a lab's images in the mirror.

    Args:
        report: shows the progress.
        features: what the lab has beyond every other lab's, as versions.yaml names it below an image's `for`.
        arch: amd64 or arm64; this machine's if not given.

    Raises:
        ToolchainError: an image can neither be pulled nor made.
    """
    arch = arch or architecture()
    ledger = Ledger(paths.mirror())
    with report.part("container images" if arch == architecture() else f"container images for {arch}") as part:
        if not _missing(ledger, features, arch):
            part.found()
            return
        with exclusive(paths.locks() / "mirror", what="filling the artifact mirror", part=part):
            _door(ledger, arch).fetch(report, part, _missing(ledger, features, arch))


def are_pulled(features: Collection[str], arch: str) -> bool:
    """Whether a lab's images, those that are not in the mirror yet, are to be pulled.

    Raises:
        ToolchainError: the certificate of a registry is not trusted.
    """
    ledger = Ledger(paths.mirror())
    door = _door(ledger, arch)
    return any(door.is_released(name) for name in _missing(ledger, features, arch))


def is_built(name: str) -> bool:
    """Whether an image, for this machine's architecture, is still to be made here.

    Raises:
        ToolchainError: the registry's certificate is not trusted.
    """
    ledger, arch = Ledger(paths.mirror()), architecture()
    return not _serves(ledger, name, arch) and not _door(ledger, arch).is_released(name)


def _door(ledger: Ledger, arch: str) -> Door[str]:
    return Door(
        releases=_provider(_pull, ledger, arch),
        sources=_provider(_make, ledger, arch),
        release_of=lambda name: origin.pulled(pins().images[name].registry),
        name_of=lambda name: name,
        how="from Go modules and Debian packages",
    )


def _missing(ledger: Ledger, features: Collection[str], arch: str) -> list[str]:
    return [name for name in pins().images_for(features) if not _serves(ledger, name, arch)]


def _serves(ledger: Ledger, name: str, arch: str) -> bool:
    image = pins().images[name]
    entry = ledger.entry(image.archive_path(arch))
    if entry is None or not origin.permits(entry.origin):
        return False
    if entry.recipe is not None:
        return entry.recipe == _recipe(name)
    # An archive that was pulled before the pin was there, or by another one, is pulled again.
    return image.digest is None or registry.digest_in(entry.made_of) == image.digest


def _recipe(name: str) -> str:
    """A hash of what an archive made here depends on: the statements that make it, and the programs in it."""
    recipe = RECIPES[name]
    sha256 = hashlib.sha256()
    for code in (recipe.code, foundation.__file__, image_archive.__file__, debian.__file__):
        sha256.update(statements(_without_places(Path(code).read_text())).encode())
    if recipe.programs:
        sha256.update(recipe.programs().recipe().encode())
    return sha256.hexdigest()[:12]


def _without_places(code: str) -> str:
    """Code as if all modules of the tool chain were in one directory: moving one must not make all images again."""
    imported: dict[str, set[str]] = {}
    for module, names in _IMPORTS.findall(code := code.replace("toolchain.from_source", "toolchain")):
        imported.setdefault(module, set()).update(names.split(", "))
    before, *others = _IMPORTS.split(code)
    block = (f"from {module} import {', '.join(sorted(names))}\n" for module, names in sorted(imported.items()))
    return before + "".join([*block, *others[2::3]])


def _provider(write: _Write, ledger: Ledger, arch: str) -> Provider[str]:
    """A provider of archives in the mirror, by the names of their images."""

    def fetch(name: str, report: Report, whole: Part) -> None:
        image, work = pins().images[name], paths.scratch() / f"image-{name}"
        path = image.archive_path(arch)
        place = paths.mirror() / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        unfinished = work / "archive.tar"
        whole.say(name)
        with report.part(f"image {image.reference}", of=whole) as part:
            by, made_of = write(part, name, unfinished, arch, ledger)
            unfinished.replace(place)
            ledger.record(path, origin=by, made_of=made_of)
        shutil.rmtree(work)

    return Provider(fetch=fetch)


def _pull(part: Part, name: str, archive: Path, arch: str, ledger: Ledger) -> tuple[Origin, str]:
    image = pins().images[name]
    # Without a pin, the digest of the first pull is locked.
    locked = registry.digest_in(ledger.source(image.archive_path(arch)) or "")
    digest = registry.pull(part, image, archive, arch, digest=image.digest or locked)
    return Origin.UPSTREAM, registry.pinned_reference(image, digest)


def _make(part: Part, name: str, archive: Path, arch: str, _: Ledger) -> tuple[Origin, str]:
    image, recipe = pins().images[name], RECIPES[name]
    if arch != architecture():
        raise ToolchainError(
            f"The image {image.reference} for {arch} can only be pulled, and {image.registry} cannot be reached: run "
            f"this where it can, or on a host that is {arch} itself."
        )
    image_archive.write(archive, recipe.make(part, image.reference, archive.parent, arch))
    return Origin.SOURCE, f"toolchain/from_source/image_recipes/{recipe.code.name}, recipe {_recipe(name)}"
