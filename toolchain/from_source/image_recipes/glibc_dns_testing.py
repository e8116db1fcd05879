"""The image `glibc-dns-testing`: dig, and getent of the C library that most programs look names up with."""

import re
from pathlib import Path

from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

_TOOLS = ("bash", "coreutils", "dash", "dnsutils", "grep", "hostname", "libc-bin", "netbase", "sed")
# Packages drag in Perl for their maintainer scripts, which are not run here.
_BALLAST = re.compile(r"\./(usr/share/|usr/bin/.*perl|usr/lib/.*/(lib)?perl|var/)")


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    root, tools, layer = work / "root.tar", work / "tools.tar", work / "layer.tar"
    debian.files(part, root, packages=_TOOLS)
    image_archive.copy_layer(root, tools, without=_BALLAST)
    image_archive.write_layer(layer, foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(tools, layer), command=("bash",))
