"""What is on the machines: each is asked once, by one SSH connection, and all of them at the same time."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from live.cluster import Cluster, LiveMachine
from live.drift.recorded import THERE, Recorded

HOST_TABLE, HOST_MARK = "/etc/hardway/hosts", "hardway"
POD_ROUTES = "/etc/hardway/pod-routes"
MASQUERADE = "/etc/hardway/masquerade.nft"
HOSTS_UNIT, NETWORK_UNIT = "hardway-hosts.service", "hardway-pod-network.service"
_LOOK = Path(__file__).with_name("look.sh")
_SECONDS = 30
_END = "end"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or directory on a machine, as `stat` shows it; changed: when its content, mode or owner last changed."""

    kind: str
    mode: str
    user: str
    group: str
    changed: float
    sha256: str = ""


@dataclass(kw_only=True)
class UnitState:
    """A unit on a machine.

    Args:
        properties: of systemd, by name.
        enabled: as `systemctl is-enabled` says it.
        same_as_started: whether what it reads is what a step started it with; None where no step does.
        started: when a step last started or reloaded it.
    """

    properties: dict[str, str] = field(default_factory=dict)
    enabled: str = ""
    same_as_started: bool | None = None
    started: float = 0

    @property
    def changed(self) -> float:
        """When it was last started or reloaded, by whatever program."""
        return max(
            _seconds(self.properties.get(name, "")) for name in ("StateChangeTimestamp", "ExecMainStartTimestamp")
        )


@dataclass(kw_only=True)
class Found:
    """What a machine has of what it was asked for; what is in no answer is not there."""

    files: dict[str, Entry] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)
    """A path that is not as in its archive -> what tar says of it."""
    units: dict[str, UnitState] = field(default_factory=dict)
    values: dict[tuple[str, str], str] = field(default_factory=dict)
    """(sysctl, package, module or user; its name) -> value."""
    host_name: str = ""
    swap: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    same_table: bool | None = None


def ask_all(cluster: Cluster, recorded: Mapping[str, Recorded]) -> dict[str, Found | str]:
    """Machine -> what it has; where it could not be asked, why."""
    with ThreadPoolExecutor(max_workers=len(cluster.machines)) as threads:
        answers = threads.map(lambda machine: ask(cluster, machine, recorded.get(machine.name)), cluster.machines)
        return dict(zip((machine.name for machine in cluster.machines), answers, strict=True))


def ask(cluster: Cluster, machine: LiveMachine, recorded: Recorded | None) -> Found | str:
    """What a machine has of what the state says; or why it could not be asked."""
    if recorded is None or not recorded.library:
        return "the state has no steps of this machine: run `./hardway up`"
    try:
        script = "\n".join([*_functions(recorded.library), _LOOK.read_text()])
        done = cluster.ssh(machine, f"bash -c {quote(script)}", stdin=questions(recorded), seconds=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {cluster.allowed(_SECONDS):.0f} s"
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines or lines[-1] != _END:
        said = done.stderr.strip().splitlines() or [f"ssh ended with status {done.returncode}"]
        return said[-1].strip()
    return parse(lines)


def questions(recorded: Recorded) -> str:
    """The standard input of look.sh."""
    return "".join(f"{line}\n" for line in _questions(recorded))


def _questions(recorded: Recorded) -> Iterator[str]:
    yield from (f"{'path' if each.content is None else 'hash'} {path}" for path, each in recorded.files.items())
    archives: dict[str, list[str]] = {}
    for path, program in recorded.programs.items():
        yield f"link {path}"
        if program.archive is None:
            # By the link's path: the target of a published checksum is not known before.
            yield f"hash {path if program.sha256 is None else program.target}"
        else:
            yield f"hash {program.archive}"
            directory = program.target.removesuffix(f"/{program.member}")
            archives.setdefault(f"{program.archive} {directory}", []).append(str(program.member))
    yield from (f"archive {words} {' '.join(members)}" for words, members in archives.items())
    yield from (f"link {path}" for path in recorded.links)
    for name, unit in recorded.units.items():
        yield f"unit {name} {unit.step_name if unit.by_step else ''}"
        # As the step has them: the unit file and its programs are found by the library's function.
        yield f"watches {name} {' '.join(unit.watches)}"
        yield f"rereads {name} {' '.join(unit.reloads_on)}"
    for kind in ("sysctl", "package", "module", "user"):
        yield from (f"{kind} {name}" for name in getattr(recorded, f"{kind}s"))
    if recorded.no_swap:
        yield "swap"
    if HOSTS_UNIT in recorded.units:
        yield f"hosts {HOST_MARK}"
    if mark := route_mark(recorded):
        yield f"routes {mark}"
    if MASQUERADE in recorded.files:
        yield f"table {MASQUERADE}"


def route_mark(recorded: Recorded) -> str:
    """The mark of the lab's routes in the kernel; empty where the machine has none."""
    found = re.search(r" proto (\d+)$", (text_of(recorded, POD_ROUTES)), re.M)
    return found[1] if found else ""


def text_of(recorded: Recorded, path: str) -> str:
    """The content of a file, as the state has it; empty if it has no such file."""
    file = recorded.files.get(path)
    return (file.content or b"").decode() if file else ""


def _functions(library: str) -> list[str]:
    """What a step notes of a unit, and how: the functions of the library that is on the lab's machines."""
    found = [re.search(rf"^{name}\(\) {{$.*?^}}$", library, re.M | re.S) for name in ("fingerprint", "last_read")]
    return [each[0] for each in found if each]


def parse(lines: list[str]) -> Found:
    """What look.sh has printed."""
    found = Found()
    hashes, unit = {}, UnitState()
    for line in lines:
        match line.split("\t"):
            case ["path", path, kind, mode, user, group, changed]:
                found.files[path] = Entry(kind=kind, mode=mode, user=user, group=group, changed=float(changed))
            case ["hash", path, sha256]:
                hashes[path] = sha256
            case ["link", path, target]:
                found.links[path] = target
            case ["member", path, what]:
                found.members[path] = what
            case ["unit"] | ["unit", ""]:
                unit = UnitState()
            case ["unit", name, value]:
                unit.properties[name] = value
                if name == "Id":
                    found.units[value] = unit
            case ["enabled", name, state] if name in found.units:
                found.units[name].enabled = state
            case ["started", name, same, started] if name in found.units:
                found.units[name].same_as_started = same == "yes"
                found.units[name].started = float(started or 0)
            case ["sysctl" | "package" as kind, name, value]:
                found.values[kind, name] = value
            case ["module" | "user" as kind, name]:
                found.values[kind, name] = THERE
            case ["host_name", name]:
                found.host_name = name
            case ["swap", device]:
                found.swap.append(device)
            case ["host", text]:
                found.hosts.append(text)
            case ["route", text]:
                found.routes.append(text)
            case ["table", same]:
                found.same_table = same == "yes"
    found.files = {
        path: Entry(**{**vars(entry), "sha256": hashes.get(path, "")}) for path, entry in found.files.items()
    }
    return found


def _seconds(timestamp: str) -> float:
    try:
        return datetime.strptime(timestamp, "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC).timestamp()
    except ValueError:
        # Empty: it never happened.
        return 0
