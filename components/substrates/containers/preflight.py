"""The preflight of labs in containers: one report of every failed precondition. It changes nothing.

Where nothing is, the lab's identity is recorded for its name (see owner.py). Run by the substrate
`containers` before it makes anything, as a program of its own (standard library only).
"""

import argparse
import ipaddress
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

# Run as a program, by the host's Python: the project is not on its path.
sys.path.insert(0, str(Path(__file__).parents[3]))

from components.substrates.containers import firewall_check, owner

# What a machine was seen to need, with room to breathe.
_MEMORY_PER_MACHINE_MIB = 400
_DISK_PER_MACHINE_MIB = 700
# A route is for a network that the lab would hide if it is at most this many bits wider than the lab's range.
_WIDER = 8
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_CAP_SYS_RESOURCE = 24


def main() -> int:
    """Print every failed precondition; exit status 1 if there is one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--mirror", required=True, type=Path)
    parser.add_argument("--machines", required=True, type=int)
    parser.add_argument("--ranges", required=True, nargs="+", type=ipaddress.IPv4Network)
    parser.add_argument("--modules", nargs="*", default=[])
    # Without it, as for the benchmarks' machines, nothing is recorded.
    parser.add_argument("--lab")
    parser.add_argument("--key", default="")
    parser.add_argument("--containers", nargs="*", default=[])
    parser.add_argument("--begun", action="store_true")
    parser.add_argument("--records", type=Path, default=Path(owner.RECORDS))
    args = parser.parse_args()
    found = list(problems(args))
    if found:
        print("The preflight failed; nothing was changed.", file=sys.stderr)
        for number, problem in enumerate(found, 1):
            print(f"  {number}. {problem}", file=sys.stderr)
    else:
        if args.lab:
            owner.take(_lab(args))
        for note in notes():
            print(f"Note: {note}.")
    return 1 if found else 0


def problems(args: argparse.Namespace) -> Iterator[str]:
    """Every failed precondition, each with what would help."""
    if not (args.mirror / "SHA256SUMS").exists():
        yield f"the artifact mirror {args.mirror} is empty: run `./hardway setup`"
    for module in args.modules:
        # Built in or loaded; or there to be loaded.
        if not Path("/sys/module", module).exists() and _run("modprobe", "-nq", module).returncode != 0:
            yield (
                f"its kernel has no module {module}, which the pod network needs: install the kernel's modules, or "
                "take another (lab.network.pod_network)"
            )
    yield from _room(args.machines, args.mirror if args.mirror.exists() else Path("/"))
    if args.engine == "podman":
        # docker's daemon has limits of its own.
        yield from _limits()
    missing = [program for program in (args.engine, "ip") if shutil.which(program) is None]
    for program in missing:
        yield f"{program} is not installed: run `./hardway setup`, or install it"
    if missing:
        return
    # At once: an engine takes a tenth of a second for each answer, and the machines wait for this program.
    with ThreadPoolExecutor() as asked:
        image = asked.submit(_run, args.engine, "image", "inspect", args.image)
        anothers = asked.submit(_anothers, args)
        listing = _run(args.engine, "network", "ls", "--format", "{{.Name}}")
        if listing.returncode != 0:
            yield f"{args.engine} does not work or is not permitted: {listing.stderr.strip()}"
            return
        mine, taken = _networks(asked, args.engine, args.network, listing.stdout.split())
        if image.result().returncode != 0:
            yield f"the node image {args.image} is missing: run `./hardway setup`"
        yield from anothers.result()
    yield from _ranges(mine, taken, args.engine, args.ranges)
    lab = firewall_check.Lab(args.ranges, next(iter(mine), None))
    try:
        for sure, found in firewall_check.looked_at(lab):
            if sure:
                yield found
            else:
                print(f"Note: {found}.")
    except firewall_check.UnreadableError as error:
        print(f"Note: the host's firewall cannot be read, and may drop packets that it forwards for the lab: {error}")


def _anothers(args: argparse.Namespace) -> list[str]:
    """What has the lab's name and is not the lab's."""
    try:
        return list(owner.problems(_lab(args))) if args.lab else []
    except owner.UnknownError as error:
        return [str(error)]


def _lab(args: argparse.Namespace) -> "owner.Lab":
    return owner.Lab(
        name=args.lab,
        engine=args.engine,
        key=args.key,
        containers=tuple(args.containers),
        begun=args.begun,
        records=args.records,
    )


def notes() -> Iterator[str]:
    """What prevents nothing, and should be known."""
    lines = [
        line.split() for file in _RESOLVERS if file.exists() for line in file.read_text(errors="replace").splitlines()
    ]
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    if not any(_is_reachable(server) for server in servers):
        named = f"only {', '.join(servers)}, which pods cannot reach" if servers else "none"
        yield f"of name servers the host has {named}: pods may not resolve names outside the cluster"


def _is_reachable(server: str) -> bool:
    """Whether a pod can ask a name server: no loopback address, and none that means something on one link only."""
    try:
        address = ipaddress.ip_address(server)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return not (mapped.is_loopback or mapped.is_unspecified or (address.version == 6 and address.is_link_local))


def _limits() -> Iterator[str]:
    """Limits of processes that root cannot raise here: machines are given these, see `containers.py`."""
    status = Path("/proc/self/status").read_text().splitlines()
    capabilities = int(next(line.split()[1] for line in status if line.startswith("CapEff:")), 16)
    if capabilities >> _CAP_SYS_RESOURCE & 1:
        return
    for name, kind, least in (("-Hn", resource.RLIMIT_NOFILE, 20000), ("-Hu", resource.RLIMIT_NPROC, 4096)):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY and hard < least:
            yield f"`ulimit {name}` is {hard} and cannot be raised here, and machines need {least}: raise it before"


def _room(machines: int, disk: Path) -> Iterator[str]:
    memory = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    if memory < machines * _MEMORY_PER_MACHINE_MIB:
        yield (
            f"{memory} MiB of memory are free, {machines} machines want {machines * _MEMORY_PER_MACHINE_MIB} MiB: "
            "stop other programs, or configure fewer machines"
        )
    free = shutil.disk_usage(disk).free // 2**20
    if free < machines * _DISK_PER_MACHINE_MIB:
        yield (
            f"{free} MiB of disk are free, {machines} machines want {machines * _DISK_PER_MACHINE_MIB} MiB: "
            "free disk space, or configure fewer machines"
        )


def _networks(
    asked: Executor, engine: str, own: str, networks: list[str]
) -> tuple[list[str], dict[ipaddress.IPv4Network, str]]:
    """The bridge of the lab's own network, if it is there, and what the others take: range -> name."""
    mine: list[str] = []
    taken: dict[ipaddress.IPv4Network, str] = {}
    answers = asked.map(lambda name: _run(engine, "network", "inspect", name).stdout, networks)
    for name, answer in zip(networks, answers, strict=True):
        for network in json.loads(answer or "[]"):
            if name == own:
                mine.append(firewall_check.bridge_of(network))
            else:
                taken |= dict.fromkeys(_subnets(network), name)
    return mine, taken


def _ranges(
    mine: list[str], networks: dict[ipaddress.IPv4Network, str], engine: str, wanted: list[ipaddress.IPv4Network]
) -> Iterator[str]:
    for taken, name in networks.items():
        for range_ in wanted:
            if range_.overlaps(taken):
                yield f"{range_} overlaps {taken}, the {engine} network {name}: take another (lab.network)"
    for route in json.loads(_run("ip", "-j", "-4", "route", "show").stdout or "[]"):
        if route["dst"] == "default" or route.get("dev") in mine:
            continue
        taken = ipaddress.IPv4Network(route["dst"])
        for range_ in wanted:
            # A VPN that wants everything has 0.0.0.0/1 and 128.0.0.0/1: the lab's narrower routes go before such.
            if range_.overlaps(taken) and taken.prefixlen >= range_.prefixlen - _WIDER:
                yield f"{range_} overlaps {taken}, a route by {route.get('dev')}: take another (lab.network)"


def _subnets(network: dict[str, object]) -> list[ipaddress.IPv4Network]:
    # podman: subnets[].subnet; docker: IPAM.Config[].Subnet.
    subnets = network.get("subnets") or []
    ipam = network.get("IPAM") or {}
    listed = [entry.get("subnet") for entry in subnets] if isinstance(subnets, list) else []
    listed += [entry.get("Subnet") for entry in ipam.get("Config") or []] if isinstance(ipam, dict) else []
    return [ipaddress.IPv4Network(text) for text in listed if text and ":" not in text]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


if __name__ == "__main__":
    sys.exit(main())
