"""What a lab has on the host: looked at from outside, not by Pulumi's state."""

import ipaddress
import json
import re
import subprocess
from pathlib import Path

from config import lab as config
from lab.commands import CHECKOUT, STACK

PREFIX = f"hardway-{STACK}"
Footprint = dict[str, list[str]]


def of_lab(settings: config.Lab) -> Footprint:
    """Everything that has the lab's name or lies in its ranges; empty lists where there is nothing."""
    prefix = f"hardway-{settings.name}"
    ranges = [settings.network.nodes, settings.network.pods, settings.network.services]
    return {
        "containers": named(prefix, "ps", "--all", "--format", "{{.Names}} {{.ID}}"),
        "networks": named(prefix, "network", "ls", "--format", "{{.Name}} {{.ID}}"),
        "volumes": named(prefix, "volume", "ls", "--format", "{{.Name}}"),
        "routes": [route for route in _routes() if _lies_in(route.split()[0], ranges)],
        "interfaces": [address for address in _addresses() if _lies_in(address.split()[0], ranges)],
        "units": [str(path) for path in Path("/etc/systemd/system").glob(f"**/{prefix}*")],
        "rules": [line for line in _rules() if f"--comment {prefix} " in line],
        "scripts": [str(path) for path in Path("/usr/local/lib").glob(prefix)],
        "records": [str(path) for path in Path("/var/lib/hardway-labs").glob(settings.name)],
        "files": sorted(str(path) for path in (CHECKOUT / ".state" / settings.name).glob("*")),
        "processes": [
            f"{process.name} {line}"
            for process in Path("/proc").glob("[0-9]*")
            if f"{prefix}-" in (line := _command_line(process)) and "conmon" in line
        ],
    }


def running(stack: str) -> set[str]:
    """The ids of a lab's running containers. Other tests make and remove containers at the same time."""
    return set(podman("ps", "--quiet", "--no-trunc", "--filter", f"label=hardway.lab={stack}").split())


def orphans() -> set[str]:
    """The volumes that no container has."""
    return set(podman("volume", "ls", "--quiet", "--filter", "dangling=true").split())


def named(prefix: str, *arguments: str) -> list[str]:
    """The lines of a podman listing that have a lab's name, which is before a dash, a blank or the end."""
    return sorted(line for line in podman(*arguments).splitlines() if re.match(rf"{re.escape(prefix)}(-|\s|$)", line))


def podman(*arguments: str) -> str:
    """Run podman for what it prints."""
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True, timeout=120).stdout


def _routes() -> list[str]:
    shown = subprocess.run(["ip", "-4", "route", "show"], capture_output=True, text=True, check=True).stdout
    return [line for line in shown.splitlines() if line[0].isdigit()]


def _rules() -> list[str]:
    return subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=True).stdout.splitlines()


def _addresses() -> list[str]:
    shown = subprocess.run(["ip", "-4", "-json", "address"], capture_output=True, text=True, check=True).stdout
    return [
        f"{address['local']} {interface['ifname']}"
        for interface in json.loads(shown)
        for address in interface["addr_info"]
    ]


def _lies_in(text: str, ranges: list[ipaddress.IPv4Network]) -> bool:
    return any(ipaddress.IPv4Network(text).overlaps(range_) for range_ in ranges)


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
