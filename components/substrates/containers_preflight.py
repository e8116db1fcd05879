"""Whether this host can carry a lab of containers: one report of all that is in the way, with nothing touched.

Run by the substrate `containers` before it makes anything, as a program of its own (standard library only).
"""

import argparse
import ipaddress
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# What a machine was seen to need, with room to breathe.
_MEMORY_PER_MACHINE_MIB = 400
_DISK_PER_MACHINE_MIB = 700


def main() -> int:
    """Print what is in the way; exit status 1 when anything is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--mirror", required=True, type=Path)
    parser.add_argument("--machines", required=True, type=int)
    parser.add_argument("--ranges", required=True, nargs="+", type=ipaddress.IPv4Network)
    parser.add_argument("--modules", nargs="*", default=[])
    args = parser.parse_args()
    found = list(problems(args))
    if found:
        print("This host cannot carry the lab; nothing was touched.", file=sys.stderr)
        for number, problem in enumerate(found, 1):
            print(f"  {number}. {problem}", file=sys.stderr)
    return 1 if found else 0


def problems(args: argparse.Namespace) -> Iterator[str]:
    """All that is in the way, each with what would help."""
    if not (args.mirror / "SHA256SUMS").exists():
        yield f"the artifact mirror {args.mirror} is empty: run `make setup`"
    for module in args.modules:
        # Built in or loaded; or there to be loaded.
        if not Path("/sys/module", module).exists() and _run("modprobe", "-nq", module).returncode != 0:
            yield (
                f"its kernel has no module {module}, which the pod network needs: install the kernel's modules, or "
                "take another (lab.network.pod_network)"
            )
    yield from _room(args.machines, args.mirror if args.mirror.exists() else Path("/"))
    missing = [program for program in (args.engine, "ip") if shutil.which(program) is None]
    for program in missing:
        yield f"{program} is not installed: run `make setup`, or install it"
    if missing:
        return
    listing = _run(args.engine, "network", "ls", "--format", "{{.Name}}")
    if listing.returncode != 0:
        yield f"{args.engine} does not work or is not permitted: {listing.stderr.strip()}"
        return
    if _run(args.engine, "image", "inspect", args.image).returncode != 0:
        yield f"the node image {args.image} is missing: run `make setup`"
    yield from _ranges(args.engine, args.network, listing.stdout.split(), args.ranges)


def _room(machines: int, disk: Path) -> Iterator[str]:
    memory = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable:")
    )
    if memory < machines * _MEMORY_PER_MACHINE_MIB:
        yield (
            f"{memory} MiB of memory are free, {machines} machines want {machines * _MEMORY_PER_MACHINE_MIB} MiB: "
            "end something, or ask for fewer machines"
        )
    free = shutil.disk_usage(disk).free // 2**20
    if free < machines * _DISK_PER_MACHINE_MIB:
        yield (
            f"{free} MiB of disk are free, {machines} machines want {machines * _DISK_PER_MACHINE_MIB} MiB: "
            "make room, or ask for fewer machines"
        )


def _ranges(engine: str, own: str, networks: list[str], wanted: list[ipaddress.IPv4Network]) -> Iterator[str]:
    mine: set[str] = set()
    for name in networks:
        inspected = json.loads(_run(engine, "network", "inspect", name).stdout or "[]")
        for network in inspected:
            if name == own:
                mine.add(network.get("network_interface") or f"br-{network.get('Id', '')[:12]}")
                continue
            for taken in _subnets(network):
                for range_ in wanted:
                    if range_.overlaps(taken):
                        yield f"{range_} overlaps {taken}, the {engine} network {name}: take another (lab.network)"
    for route in json.loads(_run("ip", "-j", "-4", "route", "show").stdout or "[]"):
        if route["dst"] == "default" or route.get("dev") in mine:
            continue
        taken = ipaddress.IPv4Network(route["dst"])
        for range_ in wanted:
            if range_.overlaps(taken):
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
