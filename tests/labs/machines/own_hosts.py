"""A user's own hosts to stand a lab on: containers with systemd and sshd, made here, bare, and not by the program.

They differ as people's hosts do: one is reached through another only, one by a user who becomes root with
a password, one on another port. They have Debian's own packages, and not those that a lab needs.
"""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import asyncssh

from components.substrates.containers.substrate import _PODMAN_FLAGS, _RUN_FLAGS
from engine.listing import KERNEL, listing
from lab.polling import eventually
from toolchain.from_source import debian
from toolchain.progress import Report

_T = TypeVar("_T")
PASSWORD = "correct horse battery"
_BOOT_SECONDS = 180.0
_STARTED = "systemctl list-jobs"
_BOOTED = "systemctl is-system-running && systemctl -q is-active ssh"
# What Debian's installer brings and a lab wants besides is left to the lab.
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "iproute2", "nftables")
# Devices and kernel are the host's; the rest is as Debian ships it.
_CUSTOMISE = """\
set -eu
systemctl mask dev-hugepages.mount dev-mqueue.mount sys-kernel-config.mount sys-kernel-debug.mount \\
  sys-kernel-tracing.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount \\
  systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service systemd-networkd.service \\
  systemd-resolved.service systemd-remount-fs.service systemd-sysctl.service systemd-logind.service \\
  systemd-pstore.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \\
  fstrim.timer getty.target console-getty.service getty-static.service systemd-timesyncd.service
rm -f /etc/ssh/ssh_host_*
systemctl disable ssh.service
: >/etc/machine-id
: >/etc/hostname
"""
_CHANGES = ('CMD ["/sbin/init"]', "STOPSIGNAL SIGRTMIN+3", "ENV container=podman")

# Without tools that a plain host does not have. The kernel is the host's, so modules, swap and the settings of the
# kernel as a whole are not the machines' own.
_ASKED = {
    **{what: KERNEL[what] for what in ("package", "unit file", "unit", "nft", "route", "link", "mount", "host name")},
    "sysctl": "cd /proc/sys && find net -type f -readable -exec grep -H . {} + 2>/dev/null || true",
    "process": "for each in /proc/[0-9]*; do tr '\\0' ' ' <$each/cmdline && echo; done 2>/dev/null | sort -u",
    "swap": "cat /proc/swaps",
    "address": "ip -o -4 address show",
}


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A network of hosts.

    Args:
        name: the network's; the hosts' containers have it, too.
        range: their addresses.
    """

    name: str = "hw-own"
    range: str = "10.246.0.0/24"

    def address(self, number: int) -> str:
        """The address of a number: 1 is the gateway's."""
        return str(IPv4Network(self.range)[number])


@dataclass(frozen=True, kw_only=True)
class OwnHost:
    """One host, before it is there.

    Args:
        number: in its container's name and its address.
        name: its host name.
        user: who logs in; others than root have PASSWORD, for ssh and for sudo, and no key.
        port: of its sshd.
        only_from: the one address that its sshd answers; any where it is empty.
        segment: its network.
    """

    number: int
    name: str
    user: str = "root"
    port: int = 22
    only_from: str = ""
    segment: Segment = Segment()

    @property
    def container(self) -> str:
        return f"{self.segment.name}-{self.number}"

    @property
    def address(self) -> str:
        return self.segment.address(10 + self.number)


@dataclass
class OwnHosts:
    """Hosts that are there for as long as they are used.

    Args:
        hosts: all of them, on one segment.
        key: the file of the private key that opens those that take one.
    """

    hosts: Sequence[OwnHost]
    key: Path
    _public: str = field(default="", init=False)

    def __enter__(self) -> "OwnHosts":
        assert os.geteuid() == 0, "these tests make privileged containers: run them as root"
        assert shutil.which("podman"), "these tests need podman: run `./hardway setup`"
        self.remove_all()
        key = asyncssh.generate_private_key("ssh-ed25519")
        self.key.touch(mode=0o600)
        self.key.write_text(key.export_private_key().decode())
        self._public = key.export_public_key().decode().strip()
        # What people's own machines each have for themselves.
        _run("sysctl", "-q", "-w", "fs.inotify.max_user_instances=8192")
        segment = self._segment
        at = ["--subnet", segment.range, "--gateway", segment.address(1)]
        podman("network", "create", "--disable-dns", *at, segment.name)
        self.make_all(self.hosts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_all()

    def make_all(self, hosts: Sequence[OwnHost]) -> None:
        """Create hosts, again where they exist, with host keys of their own. They boot side by side."""
        image = _image()
        for host in hosts:
            self._create(host, image)
        side_by_side(self._boot, hosts)

    def _create(self, host: OwnHost, image: str) -> None:
        self.remove(host)
        at = [f"--name={host.container}", f"--hostname={host.name}", f"--network={host.segment.name}"]
        podman("create", *_RUN_FLAGS, *_PODMAN_FLAGS, *at, f"--ip={host.address}", image)

    def _boot(self, host: OwnHost) -> None:
        """Start a host that was created, and wait until all is started on it."""
        podman("start", host.container)
        # systemd takes no orders before it has come so far.
        eventually(f"the systemd of {host.name}", partial(self.succeeds, host, _STARTED), seconds=_BOOT_SECONDS)
        self.bash(host, self._set_up(host))
        eventually(f"{host.name} boots", partial(self.succeeds, host, _BOOTED), seconds=_BOOT_SECONDS)

    def _set_up(self, host: OwnHost) -> str:
        lines = ["ssh-keygen -q -A", f"printf 'Port {host.port}\\n' >/etc/ssh/sshd_config.d/port.conf"]
        if host.user == "root":
            lines += ["install -d -m 0700 /root/.ssh", f"echo '{self._public} mine' >/root/.ssh/authorized_keys"]
        else:
            lines += [
                f"useradd --create-home --shell /bin/bash --groups sudo {host.user}",
                f"echo '{host.user}:{PASSWORD}' | chpasswd",
            ]
        if host.only_from:
            lines += [
                "nft add table inet mine",
                "nft add chain inet mine input '{ type filter hook input priority 0; }'",
                f"nft add rule inet mine input tcp dport {host.port} ip saddr != {host.only_from} drop",
            ]
        return "\n".join([*lines, "systemctl -q enable --now ssh"])

    def bash(self, host: OwnHost, script: str) -> str:
        """What a script prints that root runs on a host; it must succeed. It does not come over SSH."""
        return podman("exec", "-i", host.container, "bash", "-eu", stdin=script)

    def succeeds(self, host: OwnHost, script: str) -> bool:
        """Whether a script does."""
        return _try("podman", "exec", host.container, "bash", "-euc", script).returncode == 0

    def listing(self, host: OwnHost) -> set[str]:
        """Everything on a host that a lab could change."""
        process = podman("inspect", "-f", "{{.State.Pid}}", host.container).strip()
        return listing(Path(f"/proc/{process}/root"), lambda script: self.bash(host, script), _ASKED)

    def listings(self) -> dict[OwnHost, set[str]]:
        """The same of all hosts."""
        return dict(zip(self.hosts, side_by_side(self.listing, self.hosts), strict=True))

    def remove(self, host: OwnHost) -> None:
        """Remove one of them."""
        podman("rm", "-f", "-i", "-t", "0", "-v", host.container)

    def remove_all(self) -> None:
        """Remove all of them, and their network."""
        network = self._segment.name
        if names := _try("podman", "ps", "-aq", "--filter", f"network={network}").stdout.split():
            podman("rm", "-f", "-i", "-t", "0", "-v", *names)
        _try("podman", "network", "rm", "-f", network)

    @property
    def _segment(self) -> Segment:
        (segment,) = {host.segment for host in self.hosts}
        return segment


def side_by_side(do: Callable[[OwnHost], _T], hosts: Sequence[OwnHost]) -> list[_T]:
    """What a function returns for each host; the hosts are waited for at the same time."""
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        return list(pool.map(do, hosts))


def _image() -> str:
    """The hosts' image, made from Debian's packages where it is not there."""
    recipe = hashlib.sha256("\0".join([*_PACKAGES, _CUSTOMISE, *_CHANGES, debian.SUITE]).encode()).hexdigest()
    image = f"localhost/hw-own:{recipe[:12]}"
    if _try("podman", "image", "exists", image).returncode == 0:
        return image
    work = Path("/tmp") / f"hw-own-{os.getpid()}"
    work.mkdir(mode=0o700)
    try:
        (work / "customise.sh").write_text(_CUSTOMISE)
        with Report() as report, report.part("an image of a plain Debian") as part:
            debian.machine(part, work / "root.tar", packages=_PACKAGES, customise=work / "customise.sh")
        podman("import", *(word for change in _CHANGES for word in ("--change", change)), str(work / "root.tar"), image)
    finally:
        shutil.rmtree(work)
    return image


def podman(*arguments: str, stdin: str | None = None) -> str:
    """Run podman for what it prints."""
    return _run("podman", *arguments, stdin=stdin)


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command[:2])}: {done.stderr}{done.stdout}"
    return done.stdout


def _try(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
