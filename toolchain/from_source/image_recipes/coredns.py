"""The image `coredns`: the cluster's DNS."""

from pathlib import Path

from config.versions import pins
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File, Link
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

_CAP_NET_BIND_SERVICE = 1 << 10
_NONROOT = "65532:65532"


def programs() -> gomodule.Programs:
    return sources.programs("coredns", pins().images["coredns"].tag.removeprefix("v"))


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    layer = work / "layer.tar"
    entries: dict[str, File | Link] = {
        # As upstream's: it may bind port 53 without being root.
        "/coredns": File(content=work / "coredns", mode=0o755, capabilities=_CAP_NET_BIND_SERVICE),
        "/etc/ssl/certs/ca-certificates.crt": File(content=foundation.authorities(part, work)),
    }
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), entrypoint=("/coredns",), user=_NONROOT)
