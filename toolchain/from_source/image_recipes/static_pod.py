"""The images of Kubernetes' own programs: one program each, the same that lies in the mirror."""

from pathlib import Path

from config.versions import pins
from toolchain import paths
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part


def programs(version: str) -> gomodule.Programs:
    return sources.programs("kubernetes", version)


def program(name: str, version: str, arch: str) -> Path:
    """Where the mirror has a program of Kubernetes."""
    return paths.mirror() / pins().products["kubernetes"].path_of(name, version=version, arch=arch)


def make(name: str, version: str, part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    part.say(name)
    layer = work / "layer.tar"
    entries = {f"/usr/local/bin/{name}": File(content=program(name, version, arch), mode=0o755)}
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), command=(f"/usr/local/bin/{name}",))
