"""The image `agnhost`: Kubernetes' own test server, and the tools that checks run inside pods."""

import re
from pathlib import Path

from config.versions import pins
from toolchain.from_source import debian, gomodule, image_archive, sources
from toolchain.from_source.image_archive import File, Link
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

# What upstream's agnhost image has beside agnhost, for the checks inside pods.
_TOOLS = (
    *("bash", "coreutils", "curl", "dash", "dnsutils", "grep", "hostname", "iproute2", "libc-bin", "netbase"),
    *("netcat-openbsd", "procps", "sed"),
)
# Packages drag in Perl for their maintainer scripts, which are not run here.
_BALLAST = re.compile(r"\./(usr/share/|usr/bin/.*perl|usr/lib/.*/(lib)?perl|var/)")


def programs() -> gomodule.Programs:
    return sources.agnhost(pins().images["agnhost"].tag)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    porter = gomodule.sources(part, "kubernetes", of="k8s.io/kubernetes") / "test" / "images" / "agnhost" / "porter"
    root, tools, layer = work / "root.tar", work / "tools.tar", work / "layer.tar"
    debian.files(part, root, packages=_TOOLS)
    image_archive.copy_layer(root, tools, without=_BALLAST)
    entries: dict[str, File | Link] = {
        "/agnhost": File(content=work / "agnhost", mode=0o755),
        # By this name tests check that a pod's command replaces the entry point.
        "/agnhost-2": Link(target="agnhost"),
        # Servers use them for TLS; the readiness probes of upstream's StatefulSets ask for the certificate by HTTP.
        **{f"/{name}": File(content=porter / name) for name in ("localhost.crt", "localhost.key")},
        # What installing the packages would have linked.
        "/bin/nc": Link(target="nc.openbsd"),
        "/etc/ssl/certs/ca-certificates.crt": File(content=foundation.authorities(part, work)),
    }
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(
        reference=reference,
        arch=arch,
        layers=(tools, layer),
        entrypoint=("/agnhost",),
        command=("pause",),
    )
