"""The image `etcd`: the three programs of the mirror's release archive."""

import tarfile
from pathlib import Path

from config.versions import pins
from toolchain import paths
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

_PROGRAMS = ("etcd", "etcdctl", "etcdutl")


def programs() -> gomodule.Programs:
    return sources.programs("etcd", pins().products["etcd"].default)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    part.say("etcd")
    product = pins().products["etcd"]
    layer = work / "layer.tar"
    with tarfile.open(paths.mirror() / product.path_of("etcd", version=product.default, arch=arch)) as release:
        for member in release:
            if member.isreg() and (name := Path(member.name).name) in _PROGRAMS:
                stream = release.extractfile(member)
                assert stream is not None
                (work / name).write_bytes(stream.read())
    entries = {f"/usr/local/bin/{name}": File(content=work / name, mode=0o755) for name in _PROGRAMS}
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), command=("/usr/local/bin/etcd",))
