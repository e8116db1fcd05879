"""Writing the pins of a Kubernetes version into versions.yaml, from the checksums that upstream publishes.

The file is changed as text: comments and layout stay, and what `git diff` shows is what is new.
"""

import itertools
import re
from pathlib import Path

from config.versions import Product, pins
from toolchain import paths
from toolchain.download import published
from toolchain.errors import ToolchainError
from toolchain.progress import Report

RELEASES = "https://"
_ARCHITECTURES = ("amd64", "arm64")
_PRODUCT = "kubernetes"


def write(report: Report, version: str, *, releases: str = RELEASES, file: Path | None = None) -> Path:
    """Pin all binaries of a Kubernetes version, for every architecture.

    Args:
        report: shows the progress.
        version: e.g. 1.36.5; one that is pinned already gets the pins that it lacks.
        releases: what stands before the path of a file that upstream publishes.
        file: the versions.yaml to change; this checkout's if not given.

    Returns:
        The file that was changed.

    Raises:
        ToolchainError: it is no version, a checksum cannot be read, or one differs from its pin; nothing is written.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ToolchainError(f"{version!r} is no version of Kubernetes: it must be like 1.36.5.")
    product = pins().products[_PRODUCT]
    file = file or paths.checkout() / "config" / "versions.yaml"
    with report.part(f"checksums of Kubernetes {version}") as part:
        sums = {
            artifact: {
                arch: published(releases + product.path_of(artifact, version=version, arch=arch), part=part)
                for arch in _ARCHITECTURES
            }
            for artifact in product.artifacts
        }
    _check(product, version, sums)
    file.write_text(_with_pins(file.read_text(), version, sums))
    return file


def _check(product: Product, version: str, sums: dict[str, dict[str, str]]) -> None:
    """Refuse sums that are not those of versions.yaml: upstream never changes a release."""
    known = product.versions.get(version, {})
    other = [
        f"  {artifact} for {arch}: pinned {known[artifact][arch]}, published {sum_}"
        for artifact, by_arch in sums.items()
        for arch, sum_ in by_arch.items()
        if known.get(artifact, {}).get(arch, sum_) != sum_
    ]
    if other:
        raise ToolchainError(
            f"What upstream publishes for Kubernetes {version} differs from config/versions.yaml:\n"
            + "\n".join(other)
            + "\nNothing was written. Find out who changed them before you change a pin."
        )


def _with_pins(text: str, version: str, sums: dict[str, dict[str, str]]) -> str:
    block = f"    {version}:\n" + "".join(
        f"      {artifact}:\n" + "".join(f"        {arch}: {sum_}\n" for arch, sum_ in by_arch.items())
        for artifact, by_arch in sums.items()
    )
    lines = text.splitlines(keepends=True)
    try:
        start = lines.index("  versions:\n", lines.index(f"{_PRODUCT}:\n")) + 1
    except ValueError:
        raise ToolchainError(f"config/versions.yaml has no `versions` of {_PRODUCT} in its usual place.") from None
    end = _end(lines, start, indentation=4)
    try:
        first = lines.index(f"    {version}:\n", start, end)
    except ValueError:
        first = after = start
    else:
        after = _end(lines, first + 1, indentation=6)
    return "".join([*lines[:first], block, *lines[after:]])


def _end(lines: list[str], start: int, *, indentation: int) -> int:
    """Where the lines end that are indented at least so far."""
    inside = itertools.takewhile(lambda line: line.startswith(" " * indentation), lines[start:])
    return start + len(list(inside))
