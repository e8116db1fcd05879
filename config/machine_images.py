"""What machines begin with: the names of the images that set-up makes, computed from their recipes.

Another recipe is another image. Set-up makes them (`toolchain/node_image.py`, `toolchain/vm_image.py`).
"""

import hashlib
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from config import paths

NODE_RECIPE = paths.checkout() / "toolchain" / "node-image"
VM_RECIPE = paths.checkout() / "toolchain" / "vm-image"
PACKAGES = NODE_RECIPE / "packages"
"""One Debian package on each line; virtual machines have them, too."""


@dataclass(frozen=True, kw_only=True)
class VmImage:
    """The files that a virtual machine starts from.

    Args:
        disk: what its disk begins with, qcow2 or raw.
        kernel, initrd: what it boots; None where the disk has a boot loader.
    """

    disk: Path
    kernel: Path | None = None
    initrd: Path | None = None


def node_image() -> str:
    """The name and tag of the node image."""
    return f"localhost/hardway-node:{_hash_of(sorted(NODE_RECIPE.iterdir()))}"


def own_arch() -> str:
    """The architecture of the Pulumi host, as Kubernetes names it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def vm_image() -> VmImage:
    """Where the image of virtual machines is, or will be."""
    directory = paths.cache() / "vm-image" / _hash_of((*sorted(VM_RECIPE.iterdir()), PACKAGES), own_arch())
    return VmImage(disk=directory / "disk.qcow2", kernel=directory / "vmlinuz", initrd=directory / "initrd.img")


def cloud_image(url: str, sha256: str) -> VmImage:
    """Where a cloud image is, or will be, that a lab asks for."""
    return VmImage(disk=paths.cache() / "vm-image" / sha256 / url.rpartition("/")[2])


def _hash_of(files: Iterable[Path], before: str = "") -> str:
    recipe = hashlib.sha256(before.encode())
    for file in files:
        recipe.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return recipe.hexdigest()[:12]
