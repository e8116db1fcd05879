"""The image `busybox`: a small shell for pods."""

import subprocess
from pathlib import Path

from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_archive import File, Link
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    root, layer = work / "root.tar", work / "layer.tar"
    debian.files(part, root, packages=["busybox-static"])
    program = work / "busybox"
    program.write_bytes(foundation.member(root, "bin/busybox"))
    program.chmod(0o755)
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries: dict[str, File | Link] = {f"/bin/{applet}": Link(target="busybox") for applet in applets}
    entries["/bin/busybox"] = File(content=program, mode=0o755)
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), command=("sh",))
