"""Writing versions and their sums into versions.yaml, from what upstream publishes."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from toolchain import paths, system
from toolchain.errors import ToolchainError
from toolchain.progress import Part, Report
from toolchain.releases import pinnable, versions_file
from toolchain.releases.download import DownloadError
from toolchain.releases.pinnable import RELEASES, Pinnable, Sums
from toolchain.releases.versions_file import Edit


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
    known = pinnable.all_of(file, releases)
    problems = [
        f"{version!r} is no version of {name}: it must be like {known[name].current}."
        for name in names
        if name in known and not known[name].pattern.fullmatch(version)
    ]
    if unknown := [name for name in names if name not in known]:
        problems.append(f"config/versions.yaml has no {', '.join(unknown)}. What can be pinned: {', '.join(known)}.")
    if problems:
        raise ToolchainError("\n".join(problems))
    if any(known[name].is_image for name in names):
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


def _published(of: Pinnable, name: str, version: str, part: Part, work: Path) -> Sums:
    try:
        return of.published(version, part, work)
    except ToolchainError as error:
        why = error.why if isinstance(error, DownloadError) else str(error)
        raise ToolchainError(
            f"The checksums of {name} {version} are not available. Nothing was written.\n{why}"
        ) from error


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
            + "\nNothing was written. Find the reason before you change a pin."
        )
