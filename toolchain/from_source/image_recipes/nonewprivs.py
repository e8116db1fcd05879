"""The image `nonewprivs`: prints the user that a setuid program runs as."""

from pathlib import Path

from config.versions import pins
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part


def programs() -> gomodule.Programs:
    return sources.test_image("nonewprivs", "nnp", pins().products["kubernetes"].default)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    layer = work / "layer.tar"
    entries = {"/usr/local/bin/nnp": File(content=work / "nnp", mode=0o6755)}
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), command=("nnp",))
