"""The image of virtual machines: a disk with Debian and, for the one that is made here, its kernel and initrd.

The recipe is `vm-image/`, with the packages of `node-image/`: whatever a machine runs is in it already. mmdebstrap
makes the root from Debian packages, mke2fs a file system of that. There is no boot loader: the host hands the kernel
over. A cloud image of the user's own choice boots by itself, and is downloaded with its checksum.
"""

import shutil
from pathlib import Path

from config import machine_images
from config.machine_images import VmImage
from toolchain import node_image, paths
from toolchain.command import run
from toolchain.exclusive import exclusive
from toolchain.from_source import debian
from toolchain.progress import Part, Report
from toolchain.releases.download import download
from toolchain.versions import architecture

# Room for the packages; a machine's own disk is larger, and the file system grows to it at the first boot.
_FILE_SYSTEM = "2G"


def own() -> VmImage:
    """Where the image that is made here is, or will be: its directory is named after the recipe."""
    return machine_images.vm_image()


def downloaded(url: str, sha256: str) -> VmImage:
    """Where a cloud image is, or will be, that a lab asks for."""
    return machine_images.cloud_image(url, sha256)


def packages() -> list[str]:
    """The Debian packages in the image that is made here."""
    lines = (
        line.partition("#")[0].strip() for line in (machine_images.VM_RECIPE / "packages").read_text().splitlines()
    )
    return [*node_image.packages(), *(line.format(arch=architecture()) for line in lines if line)]


def ensure(report: Report, *, url: str | None = None, sha256: str | None = None) -> None:
    """Have the image: the one made here, or the one at a URL.

    Args:
        report: shows the progress.
        url: http or https.
        sha256: of what is there.

    Raises:
        ToolchainError: it cannot be made or downloaded, or has another checksum.
    """
    image = downloaded(url, sha256) if url and sha256 else own()
    with report.part(f"image of virtual machines {image.disk.parent.name[:12]}") as part:
        if image.disk.exists():
            part.found()
        elif url and sha256:
            download(url, image.disk, sha256=sha256, part=part)
        else:
            with exclusive(paths.locks() / "vm-image", what="making the image of virtual machines", part=part):
                if not image.disk.exists():
                    _make(part, image.disk.parent)


def _make(part: Part, directory: Path) -> None:
    work = paths.scratch() / "vm-image"
    shutil.rmtree(work, ignore_errors=True)
    root, made = work / "root", work / "made"
    for each in (root, made):
        each.mkdir(parents=True)
    try:
        archive, raw = work / "root.tar", work / "disk.raw"
        debian.machine(part, archive, packages=packages(), customise=machine_images.VM_RECIPE / "customise.sh")
        part.say("unpacking")
        # Devices are the kernel's to make, at boot.
        run(part, ["tar", "-xf", archive, "-C", root, "--numeric-owner", "--exclude=./dev/*"])
        part.say("making its file system")
        run(part, ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, raw, _FILE_SYSTEM])
        run(part, ["qemu-img", "convert", "-O", "qcow2", raw, made / "disk.qcow2"])
        for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd.img", "initrd.img-*")):
            (kernel,) = (root / "boot").glob(pattern)
            shutil.copyfile(kernel, made / name)
        directory.parent.mkdir(parents=True, exist_ok=True)
        made.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
