"""Fills the mirror with the files that machines need: Kubernetes, etcd, containerd, runc and the CNI plugins.

The mirror has upstream's layout without the scheme: `<host>/<path>`. What upstream serves is downloaded and must have
the sum that versions.yaml pins; where upstream cannot be reached, the same files are built from Go modules.
"""

import shutil
import stat
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from config.artifacts import UPSTREAM
from config.versions import pins
from toolchain import origin, paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import build_times, gomodule, sources
from toolchain.from_source.gomodule import SourceFile
from toolchain.ledger import Ledger, is_of_recipe
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.releases import release_archive
from toolchain.releases.download import download
from toolchain.versions import architecture

_DOWNLOADS_AT_ONCE = 4
# Files that are no programs: archives of programs, and manifests.
_DATA = (".tar.gz", ".tgz", ".yaml")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file that the mirror must have."""

    product: str
    artifact: str
    version: str
    arch: str
    path: str
    """Below the mirror, and below upstream's base URL."""
    pin: str | None
    """The official file's sha256; None: upstream publishes it beside the file."""


def plan(kubernetes_version: str, arch: str, features: Collection[str] = ()) -> list[Wanted]:
    """Every file for machines of one architecture in a lab with these features, in the order of versions.yaml."""
    wanted = []
    for product in pins().products_for(features):
        version = kubernetes_version if product.name == "kubernetes" else product.default
        wanted += [
            Wanted(
                product=product.name,
                artifact=artifact,
                version=version,
                arch=arch,
                path=product.path_of(artifact, version=version, arch=arch),
                pin=product.pin(artifact, version=version, arch=arch),
            )
            for artifact in product.artifacts
        ]
    return wanted


def ensure(
    report: Report,
    kubernetes_version: str,
    features: Collection[str] = (),
    *,
    arch: str | None = None,
    only: Sequence[str] | None = None,
    base_url: str = UPSTREAM,
) -> None:
    """Have the artifacts of one Kubernetes version in the mirror.

    Args:
        report: shows the progress.
        kubernetes_version: one of versions.yaml, e.g. 1.36.4.
        features: what the lab has beyond every other lab's, as versions.yaml names it below `for`.
        arch: amd64 or arm64; this machine's if not given.
        only: the names of those that are wanted; all of them if not given.
        base_url: what stands before a path to make upstream's URL.

    Raises:
        ToolchainError: a file can neither be downloaded nor built, or its checksum is wrong.
    """
    planned = plan(kubernetes_version, arch or architecture(), features)
    files = [file for file in planned if only is None or file.artifact in only]
    ledger = Ledger(paths.mirror())
    for file in files:
        _set_mode(file)
    with report.part(f"artifacts for Kubernetes {kubernetes_version}") as part:
        if not _missing(ledger, files):
            part.found()
            return
        with exclusive(paths.locks() / "mirror", what="filling the artifact mirror", part=part):
            _fill(report, part, ledger, _missing(ledger, files), base_url)


def _set_mode(file: Wanted) -> None:
    """Make a program executable, and every file readable on machines: releases and this user's umask say nothing of it.

    Also for files that are there already. A mode is not content: the file keeps its checksum and its time.
    """
    place = paths.mirror() / file.path
    if not place.exists():
        return
    for directory in place.relative_to(paths.mirror()).parents:
        _change_mode(paths.mirror() / directory, 0o755)
    _change_mode(place, 0o644 if place.name.endswith(_DATA) else 0o755)


def _change_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def _missing(ledger: Ledger, files: Iterable[Wanted]) -> list[Wanted]:
    return [file for file in files if not _serves(ledger, file)]


def _serves(ledger: Ledger, file: Wanted) -> bool:
    entry = ledger.entry(file.path)
    if entry is None or origin.policy() not in (None, entry.origin):
        return False
    if entry.origin is Origin.UPSTREAM:
        return file.pin in (None, entry.sha256)
    return is_of_recipe(entry.made_of, sources.recipe(file.product, file.version).recipe())


def _made_of(file: Wanted) -> str:
    recipe = sources.recipe(file.product, file.version)
    return f"toolchain/from_source/modules/{recipe.module}, recipe {recipe.recipe()}"


def _fill(report: Report, whole: Part, ledger: Ledger, files: list[Wanted], base_url: str) -> None:
    released: list[list[Wanted]] = []
    built: list[list[Wanted]] = []
    reasons: dict[str, list[str]] = {}
    for _, of_product in groupby(files, key=lambda file: file.product):
        group = list(of_product)
        url = f"{base_url}/{group[0].path}"
        if origin.of_release(url) is Origin.UPSTREAM:
            released.append(group)
        else:
            built.append(group)
            reasons.setdefault(origin.why_release_is_built(url), []).append(group[0].product)
    # All of it before anything begins: the user may want to stop here.
    for why, products in reasons.items():
        build_times.announce(report, why, products, how="from Go modules")
    whole.say(f"{sum(map(len, released))} files to download, {sum(map(len, built))} to build")
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        downloads = [
            pool.submit(_download, report, whole, ledger, file, f"{base_url}/{file.path}")
            for group in released
            for file in group
        ]
        try:
            for running in downloads:
                running.result()
        except BaseException:
            # One failed, or the user wants to stop: the others need not come to their end. What has come is kept.
            report.cancel()
            pool.shutdown(cancel_futures=True)
            raise
    for group in built:
        _build(report, whole, ledger, group)


def _download(report: Report, whole: Part, ledger: Ledger, file: Wanted, url: str) -> None:
    with report.part(f"{file.artifact} {file.version}", of=whole) as part:
        download(url, paths.mirror() / file.path, sha256=file.pin or ledger.locked(file.path), part=part)
        _set_mode(file)
        ledger.record(file.path, origin=Origin.UPSTREAM, made_of=url)


def _build(report: Report, whole: Part, ledger: Ledger, files: list[Wanted]) -> None:
    first = files[0]
    work = paths.scratch() / f"{first.product}-{first.version}-{first.arch}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with report.part(f"{first.product} {first.version} from source", of=whole) as part:
        programs = sources.recipe(first.product, first.version)
        if isinstance(programs, SourceFile):
            for file in files:
                shutil.copyfile(
                    gomodule.sources(part, programs.module, of=programs.of) / programs.path, work / file.artifact
                )
                _publish(ledger, file, work / file.artifact)
            return
        if programs.cgo and first.arch != architecture():
            raise ToolchainError(
                f"{first.product} {first.version} for {first.arch} is partly C and is not built across architectures: "
                f"run this where official releases can be reached, or on a host that is {first.arch} itself."
            )
        gomodule.build(part, programs, work, arch=first.arch)
        for file in files:
            _publish(ledger, file, _packed(file, work, tuple(programs.packages)))
    shutil.rmtree(work)


def _packed(file: Wanted, built: Path, programs: tuple[str, ...]) -> Path:
    """The released file made of built programs: an archive with upstream's layout, or a bare program."""
    match file.product:
        case "etcd":
            top = f"etcd-v{file.version}-linux-{file.arch}/"
        case "containerd":
            top = "bin/"
        case "cni-plugins":
            top = "./"
        case _:
            return built / file.artifact
    archive = built / "archive"
    release_archive.write(archive, {f"{top}{name}": built / name for name in programs})
    return archive


def _publish(ledger: Ledger, file: Wanted, built: Path) -> None:
    place = paths.mirror() / file.path
    place.parent.mkdir(parents=True, exist_ok=True)
    built.replace(place)
    _set_mode(file)
    ledger.record(file.path, origin=Origin.SOURCE, made_of=_made_of(file))
