"""Fills the mirror with archives of the container images that a lab runs: pause and CoreDNS, and those of its checks.

Pulled from their registries where these can be reached; elsewhere made here, from the same sources as upstream's and
with the same entry points, users and files that matter.
"""

import hashlib
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from config.versions import Image, pins
from toolchain import debian, gomodule, image_archive, origin, paths, sources
from toolchain.command import run
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.image_archive import File, Link
from toolchain.ledger import Ledger
from toolchain.origin import Origin
from toolchain.progress import Part, Report
from toolchain.versions import architecture

_CAP_NET_BIND_SERVICE = 1 << 10
_NOBODY = "65535:65535"
_NONROOT = "65532:65532"
# What upstream's agnhost image has beside agnhost, for the checks inside pods.
_AGNHOST_TOOLS = (
    *("bash", "coreutils", "curl", "dash", "dnsutils", "grep", "hostname", "iproute2", "libc-bin", "netbase"),
    *("netcat-openbsd", "procps", "sed"),
)
# Packages drag in Perl for their maintainer scripts, which are not run here.
_BALLAST = re.compile(r"\./(usr/share/|usr/bin/.*perl|usr/lib/.*/(lib)?perl|var/)")


def ensure(report: Report, *, arch: str | None = None) -> None:
    """Have the archives of all images in the mirror.

    Args:
        report: shows the progress.
        arch: amd64 or arm64; this machine's if not given.

    Raises:
        ToolchainError: an image can neither be pulled nor made.
    """
    arch = arch or architecture()
    ledger = Ledger(paths.mirror())
    with report.part("container images" if arch == architecture() else f"container images for {arch}") as part:
        if not _missing(ledger, arch):
            part.found()
            return
        with exclusive(paths.locks() / "mirror", what="filling the artifact mirror", part=part):
            for name in _missing(ledger, arch):
                part.say(name)
                _fill(report, part, ledger, name, arch)


def _missing(ledger: Ledger, arch: str) -> list[str]:
    return [name for name in pins().images if not _serves(ledger, name, arch)]


def _serves(ledger: Ledger, name: str, arch: str) -> bool:
    image = pins().images[name]
    entry = ledger.entry(image.archive_path(arch))
    if entry is None or origin.policy() not in (None, entry.origin):
        return False
    return entry.origin is Origin.UPSTREAM or entry.made_of == _made_of(name)


def _made_of(name: str) -> str:
    """What an archive made here depends on: the code that makes it, and the programs in it."""
    recipe = hashlib.sha256()
    for code in (__file__, image_archive.__file__, debian.__file__):
        recipe.update(Path(code).read_bytes())
    programs = {"coredns": _coredns_programs, "agnhost": _agnhost_programs}.get(name)
    if programs:
        recipe.update(programs().recipe().encode())
    return f"toolchain/images.py, recipe {recipe.hexdigest()[:12]}"


def _fill(report: Report, whole: Part, ledger: Ledger, name: str, arch: str) -> None:
    image = pins().images[name]
    path = image.archive_path(arch)
    place = paths.mirror() / path
    place.parent.mkdir(parents=True, exist_ok=True)
    work = paths.scratch() / f"image-{name}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    unfinished = work / "archive.tar"
    with report.part(f"image {image.reference}", of=whole) as part:
        if origin.of_images(image.registry) is Origin.UPSTREAM:
            _pull(part, image, unfinished, arch)
            made_of, by = image.reference, Origin.UPSTREAM
        else:
            if arch != architecture():
                raise ToolchainError(
                    f"The image {image.reference} for {arch} can only be pulled, and {image.registry} cannot be "
                    f"reached: run this where it can, or on a host that is {arch} itself."
                )
            image_archive.write(unfinished, _MAKERS[name](part, image.reference, work, arch))
            made_of, by = _made_of(name), Origin.SOURCE
        unfinished.replace(place)
        ledger.record(path, origin=by, made_of=made_of)
    shutil.rmtree(work)


def _pull(part: Part, image: Image, archive: Path, arch: str) -> None:
    engine = shutil.which("podman") or shutil.which("docker")
    if not engine:
        raise ToolchainError("Neither podman nor docker is installed; `make setup` installs podman.")
    run(part, [engine, "pull", f"--platform=linux/{arch}", image.reference])
    run(part, [engine, "save", f"--output={archive}", image.reference])


def _make_pause(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    source = gomodule.sources(part, "kubernetes", of="k8s.io/kubernetes") / "build" / "pause" / "linux" / "pause.c"
    program = work / "pause"
    version = reference.rpartition(":")[2]
    run(part, ["gcc", "-Os", "-static", "-s", f"-DVERSION=v{version}", "-o", program, source])
    layer = work / "layer.tar"
    image_archive.write_layer(layer, {"/pause": File(content=program, mode=0o755)})
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), entrypoint=("/pause",), user=_NOBODY)


def _coredns_programs() -> gomodule.Programs:
    return sources.programs("coredns", pins().images["coredns"].tag.removeprefix("v"))


def _make_coredns(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, _coredns_programs(), work, arch=arch)
    layer = work / "layer.tar"
    entries: dict[str, File | Link] = {
        # As upstream's: it may bind port 53 without being root.
        "/coredns": File(content=work / "coredns", mode=0o755, capabilities=_CAP_NET_BIND_SERVICE),
        "/etc/ssl/certs/ca-certificates.crt": File(content=_authorities(part, work)),
    }
    image_archive.write_layer(layer, entries | _accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), entrypoint=("/coredns",), user=_NONROOT)


def _agnhost_programs() -> gomodule.Programs:
    return sources.agnhost(pins().images["agnhost"].tag)


def _make_agnhost(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, _agnhost_programs(), work, arch=arch)
    root, tools, layer = work / "root.tar", work / "tools.tar", work / "layer.tar"
    debian.files(part, root, packages=_AGNHOST_TOOLS)
    image_archive.copy_layer(root, tools, without=_BALLAST)
    entries: dict[str, File | Link] = {
        "/agnhost": File(content=work / "agnhost", mode=0o755),
        # What installing the packages would have linked.
        "/bin/nc": Link(target="nc.openbsd"),
        "/etc/ssl/certs/ca-certificates.crt": File(content=_authorities(part, work)),
    }
    image_archive.write_layer(layer, entries | _accounts())
    return image_archive.Image(
        reference=reference,
        arch=arch,
        layers=(tools, layer),
        entrypoint=("/agnhost",),
        command=("pause",),
    )


def _make_busybox(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    root, layer = work / "root.tar", work / "layer.tar"
    debian.files(part, root, packages=["busybox-static"])
    program = work / "busybox"
    program.write_bytes(_member(root, "bin/busybox"))
    program.chmod(0o755)
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    entries: dict[str, File | Link] = {f"/bin/{applet}": Link(target="busybox") for applet in applets}
    entries["/bin/busybox"] = File(content=program, mode=0o755)
    image_archive.write_layer(layer, entries | _accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(layer,), command=("sh",))


_MAKERS: dict[str, Callable[[Part, str, Path, str], image_archive.Image]] = {
    "pause": _make_pause,
    "coredns": _make_coredns,
    "agnhost": _make_agnhost,
    "busybox": _make_busybox,
}


def _accounts() -> dict[str, File | Link]:
    users = "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/home/nonroot:/bin/false\n"
    groups = "root:x:0:\nnonroot:x:65532:\n"
    return {"/etc/passwd": File(content=users.encode()), "/etc/group": File(content=groups.encode())}


def _authorities(part: Part, work: Path) -> bytes:
    """Debian's bundle of certificate authorities; not this machine's, which may have others."""
    root = work / "authorities.tar"
    debian.files(part, root, packages=["ca-certificates"])
    with tarfile.open(root) as tar:
        names = sorted(name for name in tar.getnames() if re.search(r"/usr/share/ca-certificates/.*\.crt$", name))
        return b"".join(_content(tar, name) for name in names)


def _member(archive: Path, path: str) -> bytes:
    with tarfile.open(archive) as tar:
        name = next(name for name in tar.getnames() if re.fullmatch(rf"(\./)?(usr/)?{path}", name))
        return _content(tar, name)


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    if stream is None:
        raise ToolchainError(f"{tar.name!s} has no regular file {name}.")
    return stream.read()
