"""The Pulumi command: the one on PATH if it serves, else the official release, else built from its Go module."""

import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain import origin, paths
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import gomodule, sources
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.providers import Door, Provider
from toolchain.releases.download import download
from toolchain.versions import architecture, tools

RELEASES = "https://github.com/pulumi/pulumi/releases/download"
_LANGUAGE_HOST = "pulumi-language-python"
_RELEASE_NAMES = {"amd64": "x64", "arm64": "arm64"}


def ensure(report: Report, *, releases: str = RELEASES) -> Path:
    """Have a Pulumi command.

    One on PATH serves if it is not older than the pinned one (by major and minor version) and has its Python
    language host beside it. The official release brings the language host along; a built one has none.

    Args:
        report: shows the progress.
        releases: where upstream's releases are.

    Returns:
        The path of `pulumi`.

    Raises:
        ToolchainError: it can neither be downloaded nor built, or its checksum is wrong.
    """
    version = tools().pulumi
    with report.part(f"Pulumi {version}") as part:
        if own := _on_path(version):
            part.found()
            return own
        command = _home(version) / "pulumi"
        if _serves(command):
            part.found()
            return command
        with exclusive(paths.locks() / "pulumi", what=f"installing Pulumi {version}", part=part):
            if not _serves(command):
                _door(releases).fetch(report, part, [version])
    return command


def archive_name(version: str, arch: str) -> str:
    """The file of a release that is for Linux and one architecture."""
    return f"pulumi-v{version}-linux-{_RELEASE_NAMES[arch]}.tar.gz"


def checksums_name(version: str) -> str:
    """The file of a release that lists the sha256 of the others."""
    return f"pulumi-{version}-checksums.txt"


def _home(version: str) -> Path:
    return paths.cache() / "pulumi" / version / "bin"


def _on_path(version: str) -> Path | None:
    found = shutil.which("pulumi")
    if not found or not origin.permits(Origin.UPSTREAM):
        return None
    command = Path(found).resolve()
    if not (command.parent / _LANGUAGE_HOST).exists():
        return None
    said = ask(command, "version", env=os.environ | {"PULUMI_SKIP_UPDATE_CHECK": "1"})
    return command if _minor(said.stdout) >= _minor(version) else None


def _minor(version: str) -> tuple[int, int]:
    numbers = re.match(r"v?(\d+)\.(\d+)\.", version.strip())
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def _serves(command: Path) -> bool:
    if not command.exists():
        return False
    official = (command.parent / _LANGUAGE_HOST).exists()
    return origin.permits(Origin.UPSTREAM if official else Origin.SOURCE)


def _door(releases: str) -> Door[str]:
    arch = architecture()

    def url(version: str) -> str:
        return f"{releases}/v{version}/{archive_name(version, arch)}"

    def download_it(version: str, _: Report, part: Part) -> None:
        with _new_home(version) as programs:
            _download(part, version, url(version), tools().pulumi_archive[arch], programs)

    def build_it(version: str, _: Report, part: Part) -> None:
        with _new_home(version) as programs:
            gomodule.build(part, sources.pulumi(version), programs, arch=arch)

    return Door(
        releases=Provider(fetch=download_it),
        sources=Provider(fetch=build_it),
        release_of=lambda version: origin.released(url(version)),
        name_of=lambda _: "pulumi",
        how="from its Go module",
    )


@contextmanager
def _new_home(version: str) -> Iterator[Path]:
    """A directory for the programs of a version, which gets to its place when they are complete."""
    work = paths.scratch() / f"pulumi-{version}"
    shutil.rmtree(work, ignore_errors=True)
    programs = work / "bin"
    programs.mkdir(parents=True)
    yield programs
    home = _home(version)
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    programs.replace(home)
    shutil.rmtree(work)


def _download(part: Part, version: str, url: str, sha256: str, programs: Path) -> None:
    # Beside the final place, not in the scratch directory: what has come must survive an interruption.
    archive = paths.cache() / "pulumi" / version / url.rpartition("/")[2]
    download(url, archive, sha256=sha256, part=part)
    part.say("unpacking")
    with tarfile.open(archive) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if member.isfile() and content:
                # The archive's one directory, `pulumi/`, becomes the given one.
                program = programs / Path(member.name).name
                with program.open("wb") as file:
                    shutil.copyfileobj(content, file)
                program.chmod(0o755)
    if not (programs / _LANGUAGE_HOST).exists() or not (programs / "pulumi").exists():
        raise ToolchainError(f"{url} holds no pulumi with {_LANGUAGE_HOST}: upstream has changed its layout.")
    archive.unlink()
