"""The image `kube-proxy`: the mirror's kube-proxy, and the programs that it writes rules with."""

import re
from pathlib import Path

from toolchain.from_source import debian, image_archive
from toolchain.from_source.image_archive import File, Link
from toolchain.from_source.image_recipes import foundation, static_pod
from toolchain.progress import Part

_TOOLS = ("conntrack", "iptables", "kmod", "nftables")
_BALLAST = re.compile(r"\./(usr/share/|var/)")
# What Debian's alternatives would have linked.
_LINKS = [f"{family}{verb}" for family in ("iptables", "ip6tables") for verb in ("", "-save", "-restore")]


def make(version: str, part: Part, reference: str, work: Path, arch: str) -> image_archive.Image:
    root, tools, layer = work / "root.tar", work / "tools.tar", work / "layer.tar"
    debian.files(part, root, packages=_TOOLS)
    image_archive.copy_layer(root, tools, without=_BALLAST)
    entries: dict[str, File | Link] = {
        "/usr/local/bin/kube-proxy": File(content=static_pod.program("kube-proxy", version, arch), mode=0o755),
        **{f"/usr/sbin/{name}": Link(target="xtables-nft-multi") for name in _LINKS},
    }
    image_archive.write_layer(layer, entries | foundation.accounts())
    return image_archive.Image(
        reference=reference, arch=arch, layers=(tools, layer), command=("/usr/local/bin/kube-proxy",)
    )
