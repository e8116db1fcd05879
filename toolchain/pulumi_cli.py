"""The Pulumi command: the one on PATH if it serves, else the official release, else built from its Go module."""

import os
import re
import shutil
import tarfile
from pathlib import Path

from toolchain import origin, paths
from toolchain.command import ask
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.from_source import build_times, gomodule, sources
from toolchain.origin import Origin
from toolchain.progress import Part, Report
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
                _make(report, part, version, releases)
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
    if not found or origin.policy() is Origin.SOURCE:
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
    match origin.policy():
        case Origin.UPSTREAM:
            return official
        case Origin.SOURCE:
            return not official
        case None:
            return True


def _make(report: Report, part: Part, version: str, releases: str) -> None:
    arch, work = architecture(), paths.scratch() / f"pulumi-{version}"
    shutil.rmtree(work, ignore_errors=True)
    programs = work / "bin"
    programs.mkdir(parents=True)
    archive = f"{releases}/v{version}/{archive_name(version, arch)}"
    if origin.of_release(archive) is Origin.UPSTREAM:
        _download(part, version, archive, tools().pulumi_archive[arch], programs)
    else:
        build_times.announce(report, origin.why_release_is_built(archive), ["pulumi"], how="from its Go module")
        gomodule.build(part, sources.pulumi(version), programs, arch=arch)
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
