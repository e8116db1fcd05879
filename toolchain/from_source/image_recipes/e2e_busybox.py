"""The image `e2e-busybox`: what many of Kubernetes' conformance tests run in their pods.

Its `sh` is busybox's, as upstream's: a test compares an error message of it. Other tests look for environment
variables such as `data-1`, whose names no shell's variable can have. busybox's shell passes them on in upstream's image
and not as Debian builds it, so bash is the shell where there is such a variable. Others write to /tmp.
"""

import tarfile
from pathlib import Path

from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import busybox, foundation
from toolchain.progress import Part

SHELL = """\
#!/bin/bash-static
program=busybox
while IFS= read -r -d '' variable; do
    case ${variable%%=*} in [0-9]* | *[!A-Za-z0-9_]*) program=bash-static ;; esac
done </proc/self/environ
exec -a "$0" "/bin/$program" "$@"
"""


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    made = busybox.make(part, reference, work, arch)
    root, layer, bash = work / "bash.tar", work / "bash-layer.tar", work / "bash"
    debian.files(part, root, packages=["bash-static"])
    bash.write_bytes(foundation.member(root, "bin/bash-static"))
    shell = File(content=SHELL.encode(), mode=0o755)
    image_archive.write_layer(layer, {"/bin/bash-static": File(content=bash, mode=0o755), "/bin/sh": shell})
    with tarfile.open(layer, "a", format=tarfile.PAX_FORMAT) as tar:
        directory = tarfile.TarInfo("tmp")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(directory)
    return image_archive.Image(reference=reference, arch=arch, layers=(*made.layers, layer), command=made.command)
