"""The image `calico/cni`: Calico's CNI plugin, which is its address management, too.

Without upstream's program that installs them on a host: steps take the plugin out of the image (see components/calico).
"""

from pathlib import Path

from config.versions import pins
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.progress import Part


def programs() -> gomodule.Programs:
    version = pins().images["calico-cni"].tag.removeprefix("v")
    return sources.calico({"calico": "cni-plugin/cmd/calico"}, version)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    layer = work / "layer.tar"
    image_archive.write_layer(layer, {"/opt/cni/bin/calico": File(content=work / "calico", mode=0o755)})
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,))
