"""The images `kitten` and `nautilus`: agnhost that serves a picture and says its name, each another one."""

from pathlib import Path

from config.versions import pins
from toolchain.from_source import gomodule, image_archive, sources
from toolchain.from_source.image_archive import File
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part


def programs() -> gomodule.Programs:
    return sources.agnhost(pins().images["agnhost"].tag)


def make(pet: str, part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    served = gomodule.sources(part, "kubernetes", of="k8s.io/kubernetes") / "test" / "images" / pet / "html"
    layer = work / "layer.tar"
    entries = {
        "/agnhost": File(content=work / "agnhost", mode=0o755),
        **{f"/{name}": File(content=served / name) for name in ("data.json", f"{pet}.jpg")},
    }
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(
        reference=reference, arch=arch, layers=(layer,), entrypoint=("/agnhost",), command=("test-webserver",)
    )
