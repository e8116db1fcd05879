"""Fills the mirror with the files that machines need: Kubernetes, etcd, containerd, runc and the CNI plugins.

The mirror has upstream's layout without the scheme: `<host>/<path>`. What upstream serves is downloaded and must have
the sum that versions.yaml pins; where upstream cannot be reached, the same files are built from Go modules.
"""

import shutil
import stat
import tarfile
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.archives import UNPACKED, members
from config.artifacts import UPSTREAM
from config.versions import pins
from toolchain import origin, paths
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import gomodule, sources
from toolchain.from_source.gomodule import Programs, SourceFile
from toolchain.ledger import Entry, Ledger
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.providers import Door, Provider
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
            missing = _missing(ledger, files)
            _door(ledger, missing, base_url).fetch(report, part, missing)
            for file in missing:
                shutil.rmtree(_work_of(file), ignore_errors=True)


def unpack(report: Report, kubernetes_version: str, features: Collection[str] = ()) -> None:
    """Have the programs of archives unpacked in the mirror, too, for machines that have it among their files.

    Args: as `ensure`, which has put the archives there.
    """
    mirror, unpacked = Ledger(paths.mirror()), Ledger(paths.mirror() / UNPACKED)
    planned = plan(kubernetes_version, architecture(), features)
    missing = [file for file in planned if _packed_only(mirror, unpacked, file)]
    if not missing:
        return
    with (
        report.part("programs of archives") as part,
        # Not the lock of the mirror: a build may hold that for an hour.
        exclusive(paths.locks() / "unpacked", what="unpacking archives of the mirror", part=part),
    ):
        for file in filter(lambda each: _packed_only(mirror, unpacked, each), missing):
            part.say(f"unpacking {Path(file.path).name}")
            _unpack(mirror, unpacked, file)


def _packed_only(mirror: Ledger, unpacked: Ledger, file: Wanted) -> bool:
    """Whether it is an archive of which a program is missing, or is of another archive."""
    archive = mirror.entry(file.path)
    return archive is not None and any(
        (entry := unpacked.entry(f"{file.path}/{member}")) is None or entry.made_of != _unpacked_from(archive)
        for member in members(file.product, version=file.version, arch=file.arch)
    )


def _unpacked_from(archive: Entry) -> str:
    return f"the archive with the sha256 {archive.sha256}"


def _unpack(mirror: Ledger, unpacked: Ledger, file: Wanted) -> None:
    archive = mirror.entry(file.path)
    assert archive is not None
    top = paths.mirror() / UNPACKED
    wanted = members(file.product, version=file.version, arch=file.arch)
    with tarfile.open(paths.mirror() / file.path) as packed:
        for each in packed:
            member = each.name.removeprefix("./")
            content = packed.extractfile(each) if member in wanted else None
            if content is None:
                continue
            place = top / file.path / member
            place.parent.mkdir(parents=True, exist_ok=True)
            draft = place.with_name(f"{place.name}.new")
            with draft.open("wb") as copy:
                shutil.copyfileobj(content, copy)
            draft.chmod(0o755)
            draft.replace(place)
            # For machines, whatever this user's umask is.
            for directory in place.relative_to(top).parents:
                _change_mode(top / directory, 0o755)
            unpacked.record(f"{file.path}/{member}", origin=archive.origin, made_of=_unpacked_from(archive))


def is_built(artifact: str) -> bool:
    """Whether an artifact of every lab, for this machine's architecture, is still to be built.

    Raises:
        ToolchainError: the certificate of the release's host is not trusted.
    """
    ledger = Ledger(paths.mirror())
    planned = plan(pins().products["kubernetes"].default, architecture())
    missing = _missing(ledger, [file for file in planned if file.artifact == artifact])
    door = _door(ledger, missing, UPSTREAM)
    return any(not door.is_released(file) for file in missing)


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
    if entry is None or not origin.permits(entry.origin):
        return False
    if entry.recipe is None:
        return file.pin in (None, entry.sha256)
    return entry.recipe == sources.recipe(file.product, file.version).recipe()


def _door(ledger: Ledger, files: Sequence[Wanted], base_url: str) -> Door[Wanted]:
    # One file stands for all of its product.
    urls = {file.product: f"{base_url}/{file.path}" for file in reversed(files)}
    return Door(
        releases=Provider(fetch=_Releases(ledger, base_url).fetch, at_once=_DOWNLOADS_AT_ONCE),
        sources=Provider(fetch=_Sources(ledger).fetch),
        release_of=lambda file: origin.released(urls[file.product]),
        name_of=lambda file: file.product,
        how="from Go modules",
    )


class _Releases:
    """Downloads files, each with the checksum that is pinned, locked or published beside it."""

    def __init__(self, ledger: Ledger, base_url: str) -> None:
        self._ledger = ledger
        self._base_url = base_url

    def fetch(self, file: Wanted, report: Report, whole: Part) -> None:
        url = f"{self._base_url}/{file.path}"
        with report.part(f"{file.artifact} {file.version}", of=whole) as part:
            download(url, paths.mirror() / file.path, sha256=file.pin or self._ledger.locked(file.path), part=part)
            _set_mode(file)
            self._ledger.record(file.path, origin=Origin.UPSTREAM, made_of=url)


class _Sources:
    """Builds files from Go modules: a product as a whole when its first file is asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._built: set[Path] = set()

    def fetch(self, file: Wanted, report: Report, whole: Part) -> None:
        work = _work_of(file)
        recipe = sources.recipe(file.product, file.version)
        if work not in self._built:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            with report.part(f"{file.product} {file.version} from source", of=whole) as part:
                _build(part, recipe, file, work)
            self._built.add(work)
        place = paths.mirror() / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        _packed(file, work, recipe).replace(place)
        _set_mode(file)
        made_of = f"toolchain/from_source/modules/{recipe.module}, recipe {recipe.recipe()}"
        self._ledger.record(file.path, origin=Origin.SOURCE, made_of=made_of)


def _work_of(file: Wanted) -> Path:
    return paths.scratch() / f"{file.product}-{file.version}-{file.arch}"


def _build(part: Part, recipe: Programs | SourceFile, file: Wanted, work: Path) -> None:
    if isinstance(recipe, SourceFile):
        shutil.copyfile(gomodule.sources(part, recipe.module, of=recipe.of) / recipe.path, work / file.artifact)
    elif recipe.cgo and file.arch != architecture():
        raise ToolchainError(
            f"{file.product} {file.version} for {file.arch} is partly C and is not built across architectures: "
            f"run this where official releases can be reached, or on a host that is {file.arch} itself."
        )
    else:
        gomodule.build(part, recipe, work, arch=file.arch)


def _packed(file: Wanted, built: Path, recipe: Programs | SourceFile) -> Path:
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
    programs = recipe.packages if isinstance(recipe, Programs) else ()
    release_archive.write(archive, {f"{top}{name}": built / name for name in programs})
    return archive
