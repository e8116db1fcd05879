"""The images of Kubernetes' own programs: one program each, the same that lies in the mirror."""

from pathlib import Path

from config.versions import pins
from toolchain import paths
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part


def programs() -> gomodule.Programs:
    return sources.programs("kubernetes", pins().products["kubernetes"].default)


def program(name: str, arch: str) -> Path:
    """Where the mirror has a program of Kubernetes."""
    product = pins().products["kubernetes"]
    return paths.mirror() / product.path_of(name, version=product.default, arch=arch)


def make(name: str, part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    part.say(name)
    layer = work / "layer.tar"
    entries = {f"/usr/local/bin/{name}": File(content=program(name, arch), mode=0o755)}
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), command=(f"/usr/local/bin/{name}",))
