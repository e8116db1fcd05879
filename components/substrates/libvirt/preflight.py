"""The preflight of labs on virtual machines: one report of every failed precondition. It changes nothing.

Run by the substrate `libvirt` before it makes anything, as a program of its own (standard library only).
"""

import argparse
import hashlib
import ipaddress
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

# What a machine's disk was seen to grow to while the lab is made.
_DISK_PER_MACHINE_MIB = 2048
_PROGRAMS = {
    "virsh": "libvirt-clients",
    "mkisofs": "genisoimage",
    "ip": "iproute2",
    "ssh-keyscan": "openssh-client",
    "qemu-system-x86_64": "qemu-system-x86",
}
_KVM = Path("/dev/kvm")
_ABSTRACTIONS = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu")
_SOCKETS = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING = "0A"


def main() -> int:
    """Print every failed precondition and exit with 1; else the URI of the libvirt that was looked at."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uri", required=True)
    parser.add_argument("--type", required=True, choices=["kvm", "qemu"])
    parser.add_argument("--lab", required=True)
    parser.add_argument("--new", action="store_true")
    parser.add_argument("--image", required=True, type=Path)
    parser.add_argument("--sha256")
    parser.add_argument("--mirror", required=True, type=Path)
    parser.add_argument("--pool", required=True, type=Path)
    parser.add_argument("--memory", required=True, type=int)
    parser.add_argument("--disk", required=True, type=int)
    parser.add_argument("--machines", required=True, type=int)
    parser.add_argument("--ranges", required=True, nargs="+", type=ipaddress.IPv4Network)
    parser.add_argument("--port", required=True, type=int)
    args = parser.parse_args()
    found = list(problems(args))
    if found:
        print("The preflight failed; nothing was changed.", file=sys.stderr)
        for number, problem in enumerate(found, 1):
            print(f"  {number}. {problem}", file=sys.stderr)
    else:
        print(args.uri)
    return 1 if found else 0


def problems(args: argparse.Namespace) -> Iterator[str]:
    """Every failed precondition, each with what would help."""
    if not (args.mirror / "SHA256SUMS").exists():
        yield f"the artifact mirror {args.mirror} is empty: run `./hardway setup`"
    yield from image(args.image, args.sha256)
    # A lab that is there has taken its own already.
    if args.new:
        yield from _room(args)
    if platform.machine() != "x86_64":
        # The provider puts cloud-init's CD on a bus that machines of other processors do not have.
        yield f"the processor of the Pulumi host is {platform.machine()}: virtual machines need x86_64"
    if args.type == "kvm":
        yield from _kvm()
    yield from _port(args.port)
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    for program in missing:
        yield f"{program} is not installed: run `./hardway setup`, or install {_PROGRAMS[program]}"
    if "virsh" in missing:
        return
    answer = _virsh(args.uri, "net-list", "--all", "--name")
    if answer.returncode != 0:
        yield (
            f"libvirt at {args.uri} does not answer, or does not permit it: {_last(answer.stderr)}; "
            "start it: systemctl start libvirtd"
        )
        return
    names = answer.stdout.split()
    if args.new:
        yield from _taken(args.uri, args.lab, names, args.pool)
    yield from _ranges(args.uri, args.lab, args.new, names, args.ranges, look_at_routes="ip" not in missing)
    yield from _security(args.uri, args.pool)


def image(file: Path, sha256: str | None) -> Iterator[str]:
    """What is wrong with an image: not there, or not the one that it should be."""
    if not file.is_file():
        yield f"the image {file} is not there: run `./hardway setup`, or correct lab.libvirt.image"
        return
    if sha256 is None:
        return
    with file.open("rb") as content:
        actual = hashlib.file_digest(content, "sha256").hexdigest()
    if actual != sha256:
        yield (
            f"the image {file} has the sha256 {actual}, and lab.libvirt.image_sha256 wants {sha256}: "
            "it is not used; get the right one, or correct the checksum"
        )


def _room(args: argparse.Namespace) -> Iterator[str]:
    memory = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    if memory < args.memory:
        yield (
            f"{memory} MiB of memory are free, the machines want {args.memory} MiB: end something, ask for fewer "
            "machines, or give them less (lab.libvirt)"
        )
    place = next(path for path in (args.pool, *args.pool.parents) if path.exists())
    free = shutil.disk_usage(place).free // 2**20
    if free < (wanted := args.machines * _DISK_PER_MACHINE_MIB):
        yield (
            f"{free} MiB of disk are free in {place}, {args.machines} machines want {wanted} MiB at once and may grow "
            f"to {args.disk} GiB: free disk space, or configure fewer machines"
        )


def _kvm() -> Iterator[str]:
    if not _KVM.exists():
        yield (
            f"there is no {_KVM}: enable virtualization in the firmware, load kvm_intel or kvm_amd, or write "
            "type: qemu below lab.libvirt (slow)"
        )
    elif not os.access(_KVM, os.R_OK | os.W_OK):
        yield f"{_KVM} is not permitted: run this as root"


def _port(port: int) -> Iterator[str]:
    # Bound to all addresses: then the network's gateway, which comes with the lab, has it, too.
    for table in _SOCKETS:
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            words = line.split()
            address, _, number = words[1].partition(":")
            if words[3] == _LISTENING and int(number, 16) == port and not int(address, 16):
                yield f"a program here listens on port {port} of all addresses, which the mirror needs: stop it"
                return


def _taken(uri: str, lab: str, networks: Sequence[str], pool: Path) -> Iterator[str]:
    found = [f"the network {name}" for name in networks if name == lab]
    found += [f"the pool {name}" for name in _virsh(uri, "pool-list", "--all", "--name").stdout.split() if name == lab]
    for name in _virsh(uri, "list", "--all", "--name").stdout.split():
        # Whose a machine is stands in its description: names of labs may begin alike.
        if name.startswith(f"{lab}-") and _virsh(uri, "desc", name).stdout.strip() == lab:
            found.append(f"the machine {name}")
    if pool.is_dir() and any(pool.iterdir()):
        found.append(f"files in {pool}")
    if found:
        yield (
            f"the Pulumi host already has a lab with this name, from another checkout or missing in Pulumi's state: "
            f"{', '.join(found)}; destroy it where it was made, remove these by virsh, or use another stack name"
        )


def _ranges(
    uri: str,
    lab: str,
    new: bool,
    networks: Sequence[str],
    wanted: Sequence[ipaddress.IPv4Network],
    *,
    look_at_routes: bool,
) -> Iterator[str]:
    bridges: set[str] = set()
    for name in networks:
        described = ElementTree.fromstring(_virsh(uri, "net-dumpxml", name).stdout)
        bridge = described.find("bridge")
        if bridge is not None:
            bridges.add(bridge.get("name", ""))
        if name == lab and not new:
            continue
        whose = "another lab's network" if name.startswith("hardway-") else "the libvirt network"
        for taken in _subnets(described):
            for range_ in wanted:
                if range_.overlaps(taken):
                    yield f"{range_} overlaps {taken}, {whose} {name}: take another (lab.network)"
    routes = _run("ip", "-j", "-4", "route", "show").stdout if look_at_routes else ""
    for route in json.loads(routes or "[]"):
        # The routes by libvirt's own bridges have been looked at with their networks, but for those to a lab's pods.
        if route["dst"] == "default" or (route.get("dev") in bridges and "gateway" not in route):
            continue
        taken = ipaddress.IPv4Network(route["dst"])
        for range_ in wanted:
            own = not new and ipaddress.ip_address(route.get("gateway", "0.0.0.0")) in wanted[0]
            if range_.overlaps(taken) and not own:
                yield f"{range_} overlaps {taken}, a route by {route.get('dev')}: take another (lab.network)"


def _subnets(network: ElementTree.Element) -> list[ipaddress.IPv4Network]:
    found = []
    for ip in network.findall("ip"):
        if ip.get("family", "ipv4") == "ipv4" and ip.get("address"):
            length = ip.get("prefix") or ip.get("netmask") or "32"
            found.append(ipaddress.IPv4Network(f"{ip.get('address')}/{length}", strict=False))
    return found


def _security(uri: str, pool: Path) -> Iterator[str]:
    """What keeps the machines from their disks: AppArmor, and the owners and modes of directories."""
    answer = _virsh(uri, "capabilities")
    if answer.returncode != 0:
        yield f"libvirt at {uri} does not report its capabilities: {_last(answer.stderr)}"
        return
    host = ElementTree.fromstring(answer.stdout).findall("host/secmodel")
    models = {model.findtext("model"): model.findtext("baselabel") or "" for model in host}
    if "apparmor" in models:
        yield from _apparmor(pool)
    # The user and group that qemu runs as, like +64055:+994.
    if label := re.fullmatch(r"\+(\d+):\+(\d+)", models.get("dac", "")):
        yield from _directories(pool, int(label[1]), int(label[2]))


def _apparmor(pool: Path) -> Iterator[str]:
    # libvirt's helper makes a machine's profile from its description, where a disk in a pool has no path.
    rules = _ABSTRACTIONS.read_text() if _ABSTRACTIONS.exists() else ""
    allowed = [Path(match[1]) for match in re.finditer(r'^\s*"?(/[^"\s]*?)/\*\*"?\s+rwk?,', rules, re.M)]
    if not any(pool.is_relative_to(directory) for directory in allowed):
        yield (
            f"AppArmor would deny the machines their disks in {pool}: run `./hardway setup`, or add the line "
            f"`{pool.parent}/** rwk,` to {_ABSTRACTIONS}"
        )


def _directories(pool: Path, uid: int, gid: int) -> Iterator[str]:
    for directory in (pool, *pool.parents):
        if not directory.exists():
            continue
        found = directory.stat()
        # A directory above may be another user's; who owns these two can put other disks there.
        if directory in (pool, pool.parent) and found.st_uid not in (0, uid):
            yield f"{directory} belongs to user {found.st_uid}, who could exchange the disks: chown root {directory}"
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            yield f"every user may write to {directory}, and replace the disks: chmod o-w {directory}"
        if not _may_enter(found, uid, gid):
            yield (
                f"qemu, which is user {uid} here, may not enter {directory}: chmod o+x {directory}, "
                "or take another lab.libvirt.pool"
            )


def _may_enter(directory: os.stat_result, uid: int, gid: int) -> bool:
    if uid == 0:
        return True
    if directory.st_uid == uid:
        return bool(directory.st_mode & stat.S_IXUSR)
    if directory.st_gid == gid:
        return bool(directory.st_mode & stat.S_IXGRP)
    return bool(directory.st_mode & stat.S_IXOTH)


def _virsh(uri: str, *command: str) -> subprocess.CompletedProcess[str]:
    return _run("virsh", "-q", "-c", uri, *command)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
