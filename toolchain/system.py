"""The system packages that a lab's host needs, by apt: only what is missing, with sudo if need be."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain.command import ask, run
from toolchain.errors import ToolchainError
from toolchain.progress import Part, Report

_LOCK_DEADLINE = 600.0
_LOOK_EVERY = 0.5
_OS_RELEASE = Path("/etc/os-release")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Package:
    """One Debian package; where a command is named, any program of that name will do in its place."""

    name: str
    why: str
    command: str | None = None
    since_debian: int | None = None
    """The first Debian that has it: in an earlier one, and in Ubuntu, another package has its command."""


PODMAN = (
    Package(name="podman", command="podman", why="runs the machines, which are containers"),
    Package(name="runc", command="runc", why="their runtime: crun, podman's default, mounts cgroups otherwise"),
    Package(name="netavark", why="podman's networks with static addresses"),
    Package(name="aardvark-dns", why="the resolver that podman gives to the machines"),
    Package(name="iptables", command="iptables", why="what netavark masquerades with, and rules for the lab's packets"),
    Package(name="nftables", command="nft", why="the same for later versions of netavark; shows what a firewall drops"),
    Package(name="procps", command="sysctl", why="keeps the host's kernel settings, and restores them"),
)
DOCKER = (
    Package(name="docker.io", command="dockerd", why="runs the machines, which are containers"),
    Package(name="docker-cli", command="docker", why="its command", since_debian=13),
    Package(name="iptables", command="iptables", why="rules for the lab's packets"),
    Package(name="nftables", command="nft", why="shows what a firewall drops"),
    Package(name="procps", command="sysctl", why="keeps the host's kernel settings, and restores them"),
)
NODE_IMAGE = (
    Package(name="mmdebstrap", command="mmdebstrap", why="makes the node image where no registry answers"),
    Package(name="debian-archive-keyring", why="checks the signatures of the packages in that image"),
)
LIBVIRT = (
    Package(name="libvirt-daemon-system", command="libvirtd", why="runs the machines, which are virtual"),
    Package(name="libvirt-clients", command="virsh", why="tells what libvirt has"),
    Package(name="qemu-system-x86", command="qemu-system-x86_64", why="the machines themselves"),
    Package(name="qemu-utils", command="qemu-img", why="makes their image"),
    Package(name="genisoimage", command="mkisofs", why="makes the CDs that tell machines who they are"),
    Package(name="dnsmasq-base", command="dnsmasq", why="answers the machines' DNS on libvirt's network"),
    Package(name="e2fsprogs", command="mke2fs", why="makes their file system"),
)
ACCESS = (
    Package(name="ca-certificates", why="downloads are checked"),
    Package(name="iproute2", command="ip", why="routes to the pods, and a look at the host's addresses"),
    Package(name="openssh-client", command="ssh", why="`./hardway ssh`"),
)
IMAGE_PULLS = (Package(name="skopeo", command="skopeo", why="pulls container images, without a container engine"),)
SOURCE_BUILDS = (
    Package(name="gcc", command="gcc", why="builds runc and pause, which are partly C"),
    Package(name="libc6-dev", why="the C library's headers, for them"),
    Package(name="libseccomp-dev", why="runc's system call filter; without it every pod fails"),
    Package(name="pkg-config", command="pkg-config", why="tells the Go tools where libseccomp is"),
)


def ensure(report: Report, packages: Sequence[Package]) -> None:
    """Install what is missing of some packages.

    Args:
        report: shows the progress, if there is something to do.
        packages: of the groups above.

    Raises:
        ToolchainError: this user may not install, this is no Debian, or apt fails.
    """
    absent = missing(packages)
    if not absent:
        return
    with report.part("system packages") as part:
        part.say(", ".join(absent))
        _install(part, absent, _as_root(packages, absent))


def missing(packages: Sequence[Package]) -> list[str]:
    """The names of those packages that are neither installed nor replaced by another origin's program."""
    uncertain = [
        p.name for p in packages if _exists(p) and not (p.command and shutil.which(p.command, path=_search_path()))
    ]
    if not uncertain:
        return []
    try:
        listing = ask("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *uncertain)
    except FileNotFoundError:
        return uncertain
    # Its exit status only says that some are unknown.
    installed = {line.split()[0] for line in listing.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in uncertain if name not in installed]


def _exists(package: Package) -> bool:
    if package.since_debian is None:
        return True
    lines = _OS_RELEASE.read_text().splitlines() if _OS_RELEASE.exists() else []
    release = {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}
    # Debian's next release has no number yet.
    return (
        release.get("ID") == "debian" and int(release.get("VERSION_ID", package.since_debian)) >= package.since_debian
    )


def _search_path() -> str:
    # A user's PATH on Debian lacks the sbin directories, where ip and iptables are.
    return os.pathsep.join((os.environ.get("PATH", ""), _SYSTEM_PATH))


def _as_root(packages: Sequence[Package], absent: Sequence[str]) -> list[str]:
    """The words before a command that make it run as root; an error where that is impossible or useless."""
    wanted = "\n".join(f"  {p.name:24}{p.why}" for p in packages if p.name in absent)
    if not shutil.which("apt-get"):
        raise ToolchainError(
            f"Missing, and no apt-get is here to install them (set-up knows Debian and Ubuntu):\n{wanted}\n"
            "Install what they are called on this system, then run this again."
        )
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        raise ToolchainError(
            f"System packages are missing, and this user is neither root nor has sudo:\n{wanted}\n"
            f"Ask an administrator for: apt-get install {' '.join(absent)}"
        )
    return ["sudo"]


def _install(part: Part, names: Sequence[str], as_root: Sequence[str]) -> None:
    install = ("install", "--yes", "--no-install-recommends", *names)
    try:
        _apt(part, as_root, *install)
    except ToolchainError:
        # Package lists that are absent or too old are the usual cause; fetching them takes a while.
        _apt(part, as_root, "update")
        _apt(part, as_root, *install)


def _apt(part: Part, as_root: Sequence[str], *arguments: str) -> None:
    # Through `env`, since sudo passes no environment on. C: the lock's message is looked for below.
    settings = ("env", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
    deadline = time.monotonic() + _LOCK_DEADLINE
    while True:
        try:
            run(part, [*as_root, *settings, "apt-get", "-q", "-o", "Dpkg::Use-Pty=0", *arguments])
            return
        except ToolchainError as error:
            if "Could not get lock" not in str(error) or time.monotonic() > deadline:
                raise
            part.say("waiting for another apt or dpkg on this machine to end")
            time.sleep(_LOOK_EVERY)
