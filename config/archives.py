"""The programs that machines take out of the archives of releases."""

_PROGRAMS = {
    "etcd": ("etcd-v{version}-linux-{arch}/", ("etcd", "etcdctl", "etcdutl")),
    "containerd": ("bin/", ("containerd", "containerd-shim-runc-v2", "ctr")),
    "cni-plugins": ("", ("bridge", "host-local", "loopback", "portmap")),
}
UNPACKED = "unpacked"
"""The directory of a mirror that has these programs, below the archive's own path and in its layout, with SHA256SUMS of
its own.
"""


def members(product: str, *, version: str, arch: str) -> list[str]:
    """The paths of the programs in a product's archive; none where it is no archive of programs."""
    folder, programs = _PROGRAMS.get(product, ("", ()))
    return [folder.format(version=version, arch=arch) + program for program in programs]
