"""The image `calico/kube-controllers`: what keeps Calico's datastore in step with the cluster."""

from pathlib import Path

from config.versions import pins
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

_USER = "999"


def programs() -> gomodule.Programs:
    version = pins().images["calico-kube-controllers"].tag.removeprefix("v")
    commands = ("kube-controllers", "check-status")
    return sources.calico({name: f"kube-controllers/cmd/{name}" for name in commands}, version)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    built = programs()
    gomodule.build(part, built, work, arch=arch)
    layer = work / "layer.tar"
    entries = {f"/usr/bin/{name}": File(content=work / name, mode=0o755) for name in built.packages}
    # What the probes read, written by a user that may not make files there.
    status = {"/status/status.json": File(content=b"", mode=0o666)}
    image_archive.write_layer(layer, entries | status | foundation.accounts())
    return image_archive.Image(
        reference=reference, arch=arch, layers=(layer,), entrypoint=("/usr/bin/kube-controllers",), user=_USER
    )
