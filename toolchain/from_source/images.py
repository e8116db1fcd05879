"""Fills the mirror with archives of the container images that a lab runs: pause and CoreDNS, and those of its checks.

Pulled from their registries where these can be reached; elsewhere made here (`image_recipes`).
"""

import hashlib
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from config.versions import pins
from toolchain import origin, paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import build_times, debian, image_archive
from toolchain.from_source.image_recipes import RECIPES, foundation
from toolchain.ledger import Ledger, is_of_recipe
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.releases import registry
from toolchain.versions import architecture

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
            missing = _missing(ledger, features, arch)
            _announce(report, missing)
            for name in missing:
                part.say(name)
                _fill(report, part, ledger, name, arch)


def are_pulled(features: Collection[str], arch: str) -> bool:
    """Whether a lab's images, those that are not in the mirror yet, are to be pulled.

    Raises:
        ToolchainError: the certificate of a registry is not trusted.
    """
    registries = {pins().images[name].registry for name in _missing(Ledger(paths.mirror()), features, arch)}
    return any(origin.of_images(of) is Origin.UPSTREAM for of in sorted(registries))


def _announce(report: Report, names: list[str]) -> None:
    reasons: dict[str, list[str]] = {}
    for name in names:
        registry = pins().images[name].registry
        if origin.of_images(registry) is Origin.SOURCE:
            reasons.setdefault(origin.why_images_are_built(registry), []).append(name)
    for why, made in reasons.items():
        build_times.announce(report, why, made, how="from Go modules and Debian packages")


def _missing(ledger: Ledger, features: Collection[str], arch: str) -> list[str]:
    return [name for name in pins().images_for(features) if not _serves(ledger, name, arch)]


def _serves(ledger: Ledger, name: str, arch: str) -> bool:
    image = pins().images[name]
    entry = ledger.entry(image.archive_path(arch))
    if entry is None or origin.policy() not in (None, entry.origin):
        return False
    if entry.origin is Origin.SOURCE:
        return is_of_recipe(entry.made_of, _recipe(name))
    # An archive that was pulled before the pin was there, or by another one, is pulled again.
    return image.digest is None or registry.digest_in(entry.made_of) == image.digest


def _made_of(name: str) -> str:
    return f"toolchain/from_source/image_recipes/{RECIPES[name].code.name}, recipe {_recipe(name)}"


def _recipe(name: str) -> str:
    """A hash of what an archive made here depends on: the code that makes it, and the programs in it."""
    recipe = RECIPES[name]
    sha256 = hashlib.sha256()
    for code in (recipe.code, foundation.__file__, image_archive.__file__, debian.__file__):
        sha256.update(_without_places(Path(code).read_text()).encode())
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


def _fill(report: Report, whole: Part, ledger: Ledger, name: str, arch: str) -> None:
    image = pins().images[name]
    path = image.archive_path(arch)
    place = paths.mirror() / path
    place.parent.mkdir(parents=True, exist_ok=True)
    work = paths.scratch() / f"image-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    unfinished = work / "archive.tar"
    with report.part(f"image {image.reference}", of=whole) as part:
        if origin.of_images(image.registry) is Origin.UPSTREAM:
            # Without a pin, the digest of the first pull is locked.
            locked = registry.digest_in(ledger.source(path) or "")
            digest = registry.pull(part, image, unfinished, arch, digest=image.digest or locked)
            made_of, by = registry.pinned_reference(image, digest), Origin.UPSTREAM
        else:
            if arch != architecture():
                raise ToolchainError(
                    f"The image {image.reference} for {arch} can only be pulled, and {image.registry} cannot be "
                    f"reached: run this where it can, or on a host that is {arch} itself."
                )
            image_archive.write(unfinished, RECIPES[name].make(part, image.reference, work, arch))
            made_of, by = _made_of(name), Origin.SOURCE
        unfinished.replace(place)
        ledger.record(path, origin=by, made_of=made_of)
    shutil.rmtree(work)
