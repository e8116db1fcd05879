"""The image `sample-apiserver`: Kubernetes' own example of an extension API server."""

from pathlib import Path

from config.versions import pins
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part


def programs() -> gomodule.Programs:
    return sources.programs("sample-apiserver", pins().products["kubernetes"].default)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    layer = work / "layer.tar"
    entries = {"/sample-apiserver": File(content=work / "sample-apiserver", mode=0o755)}
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), entrypoint=("/sample-apiserver",))
