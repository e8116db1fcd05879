"""The image `pause`: the program that holds a pod's namespaces, from Kubernetes' C source."""

from pathlib import Path

from toolchain.command import run
from toolchain.from_source import gomodule, image_archive
from toolchain.from_source.image_archive import File
from toolchain.progress import Part

_NOBODY = "65535:65535"


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    source = gomodule.sources(part, "kubernetes", of="k8s.io/kubernetes") / "build" / "pause" / "linux" / "pause.c"
    program = work / "pause"
    version = reference.rpartition(":")[2]
    run(part, ["gcc", "-Os", "-static", "-s", f"-DVERSION=v{version}", "-o", program, source])
    layer = work / "layer.tar"
    image_archive.write_layer(layer, {"/pause": File(content=program, mode=0o755)})
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), entrypoint=("/pause",), user=_NOBODY)
