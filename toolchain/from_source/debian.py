"""Small Debian file systems made from packages, by mmdebstrap."""

from collections.abc import Sequence
from pathlib import Path

from toolchain.command import run
from toolchain.progress import Part

SUITE = "bookworm"


def machine(part: Part, archive: Path, *, packages: Sequence[str], customise: Path) -> None:
    """Make the root of a whole machine: the packages installed and configured.

    Args:
        part: shows the progress.
        archive: the tar file to write.
        packages: what to install beside the minimum that includes apt; no recommendations.
        customise: a shell script that runs inside the root at the end.

    Raises:
        ToolchainError: a package cannot be had, or a script failed.
    """
    _mmdebstrap(part, archive, "minbase", packages, f"--customize-hook=chroot \"$1\" sh < '{customise}'")


def files(part: Part, archive: Path, *, packages: Sequence[str]) -> None:
    """Make a root that has the files of some packages and of all that they depend on, nothing installed in it.

    Args:
        part: shows the progress.
        archive: the tar file to write.
        packages: which packages.

    Raises:
        ToolchainError: a package cannot be had.
    """
    _mmdebstrap(part, archive, "extract", packages)


def _mmdebstrap(part: Part, archive: Path, variant: str, packages: Sequence[str], *options: str) -> None:
    # Without a mirror's address: mmdebstrap knows Debian's own, and apt's proxy settings of this machine apply.
    archive.parent.mkdir(parents=True, exist_ok=True)
    run(
        part,
        [
            "mmdebstrap",
            f"--variant={variant}",
            f"--include={','.join(packages)}",
            '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude=/usr/share/{ballast}/*" for ballast in ("doc", "man", "locale")),
            *options,
            SUITE,
            archive,
        ],
        describe=lambda line: line.removeprefix("I: "),
    )
