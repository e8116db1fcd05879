"""The image `calico/node`: Felix and what runs beside it, on a Debian root with the tools that they call.

Started by upstream's own scripts, out of the same module. Without BIRD: labs use no BGP.
"""

import re
from pathlib import Path

from config.versions import pins
from toolchain.from_source import debian, gomodule, image_archive, sources
from toolchain.from_source.image_archive import File, Link
from toolchain.from_source.image_recipes import foundation
from toolchain.progress import Part

_TOOLS = (
    *("bash", "conntrack", "coreutils", "dash", "debianutils", "iproute2", "ipset", "iptables", "kmod", "libc-bin"),
    *("procps", "runit", "sed"),
)
_BALLAST = re.compile(r"\./(usr/share/|usr/bin/.*perl|usr/lib/.*/(lib)?perl|var/)")
_CALICO = "github.com/projectcalico/calico"
# What upstream's file system is, below node/filesystem.
_SCRIPTS = ("etc/rc.local", "sbin/start_runit")


def programs() -> gomodule.Programs:
    version = pins().images["calico-node"].tag.removeprefix("v")
    return sources.calico({"calico-node": "node/cmd/calico-node"}, version)


def make(part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    gomodule.build(part, programs(), work, arch=arch)
    upstream = gomodule.sources(part, "calico", of=_CALICO) / "node" / "filesystem"
    root, tools, layer = work / "root.tar", work / "tools.tar", work / "layer.tar"
    debian.files(part, root, packages=_TOOLS)
    image_archive.copy_layer(root, tools, without=_BALLAST)
    services = upstream / "etc" / "service"
    entries: dict[str, File | Link] = {
        "/bin/calico-node": File(content=work / "calico-node", mode=0o755),
        "/etc/calico/felix.cfg": File(content=upstream / "etc" / "calico" / "felix.cfg"),
        "/etc/ssl/certs/ca-certificates.crt": File(content=foundation.authorities(part, work)),
        # What installing the packages would have linked; Felix asks the first two for their version.
        "/usr/sbin/iptables": Link(target="xtables-nft-multi"),
        "/usr/sbin/ip6tables": Link(target="xtables-nft-multi"),
        "/usr/bin/which": Link(target="which.debianutils"),
        # Go's module archives do not keep who may run a file.
        **{f"/{path}": File(content=upstream / path, mode=0o755) for path in _SCRIPTS},
        **{
            f"/etc/service/{run.relative_to(services)}": File(content=run, mode=0o755)
            for run in sorted(services.rglob("run"))
        },
    }
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(reference=reference, arch=arch, layers=(tools, layer), command=("start_runit",))
