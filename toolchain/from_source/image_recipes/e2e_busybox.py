"""The image `e2e-busybox`: what many of Kubernetes' conformance tests run in their pods.

Its `sh` is bash. Some tests look for environment variables such as `data-1`, whose names no shell's variable can have.
busybox's shell, as Debian builds it, does not pass them on; upstream's does. Others write to /tmp.
"""

import tarfile
from pathlib import Path

from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import busybox, foundation
from toolchain.progress import Part


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    made = busybox.make(part, reference, work, arch)
    root, layer, bash = work / "bash.tar", work / "bash-layer.tar", work / "bash"
    debian.files(part, root, packages=["bash-static"])
    bash.write_bytes(foundation.member(root, "bin/bash-static"))
    image_archive.write_layer(layer, {"/bin/sh": File(content=bash, mode=0o755)})
    with tarfile.open(layer, "a", format=tarfile.PAX_FORMAT) as tar:
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(directory)
    return image_archive.Image(reference=reference, arch=arch, layers=(*made.layers, layer), command=made.command)
