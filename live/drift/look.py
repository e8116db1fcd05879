"""What is on a machine: it is asked by one SSH connection."""

import re
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shlex import quote

from config.machine_paths import HOSTS_UNIT, MASQUERADE, POD_ROUTES
from live.cluster import Cluster, LiveMachine
from live.drift.recorded import THERE, Recorded

HOST_MARK = "hardway"
LOOK = Path(__file__).with_name("look.sh")
_FUNCTIONS = ("fingerprint", "last_read")
_SECONDS = 30
_END = "end"
_NOTHING: Mapping[str, Collection[str]] = {}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file or directory on a machine, as `stat` shows it.

    Args:
        kind, mode, user, group: as printed.
        changed: when its content, mode or owner last changed.
        same: equal for one file that two machines see: inode, size, and that time.
        sha256: empty for what has no content; None where it is not known.
    """

    kind: str
    mode: str
    user: str
    group: str
    changed: float
    same: str = ""
    sha256: str | None = ""


@dataclass(kw_only=True)
class UnitState:
    """A unit on a machine.

    Args:
        properties: of systemd, by name.
        enabled: as `systemctl is-enabled` says it.
        same_as_started: whether what it reads is what a step started it with; None where no step does.
        started: when a step last started or reloaded it.
        due: whether a repair has ended before it could restart it.
    """

    properties: dict[str, str] = field(default_factory=dict)
    enabled: str = ""
    same_as_started: bool | None = None
    started: float = 0
    due: bool = False

    def changed(self, *, reloads: bool) -> float:
        """When it was last started, by whatever program; or reloaded, if it can be."""
        # A timer's state also changes when it elapses.
        names = ("StateChangeTimestamp",) if reloads else ("ActiveEnterTimestamp", "ExecMainStartTimestamp")
        return max(_seconds(self.properties.get(name, "")) for name in names)


@dataclass(kw_only=True)
class Found:
    """What a machine has of what it was asked for; what is in no answer is not there."""

    files: dict[str, Entry] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    packed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(archive, member) -> checksum, of the archives that this machine has read."""
    members: dict[str, str] = field(default_factory=dict)
    """A path that is unpacked -> the checksum that it has in its archive; not where nothing could read that."""
    units: dict[str, UnitState] = field(default_factory=dict)
    values: dict[tuple[str, str], str] = field(default_factory=dict)
    """(sysctl, package, module or user; its name) -> value."""
    host_name: str = ""
    swap: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    routes: list[str] = field(default_factory=list)
    same_table: bool | None = None


def ask(
    cluster: Cluster,
    machine: LiveMachine,
    recorded: Recorded | None,
    others: Collection[str] = (),
    reading: Mapping[str, Collection[str]] = _NOTHING,
) -> Found | str:
    """What a machine has of what the state says; or why it could not be asked.

    Args:
        cluster: the lab.
        machine: which.
        recorded: what the state says of it.
        others: artifacts whose checksum another machine computes.
        reading: path of an archive -> the members of it that this machine reads.
    """
    if recorded is None or not recorded.library:
        return "the state has no steps of this machine: run `./hardway up`"
    functions = _functions(recorded.library)
    if len(functions) != len(_FUNCTIONS):
        return "the state has an earlier library of the steps: run `./hardway up`"
    script = "\n".join([*functions, LOOK.read_text()])
    lines = answer(cluster, machine, script, questions(recorded, others, reading))
    return lines if isinstance(lines, str) else parse(lines)


def answer(cluster: Cluster, machine: LiveMachine, script: str, stdin: str) -> list[str] | str:
    """The lines that a script prints on a machine before its last one, "end"; or why they are not known."""
    try:
        done = cluster.ssh(machine, f"bash -c {quote(script)}", stdin=stdin, seconds=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {cluster.allowed(_SECONDS):.0f} s"
    *lines, last = done.stdout.splitlines() or [""]
    if done.returncode != 0 or last != _END:
        said = done.stderr.strip().splitlines() or [f"ssh ended with status {done.returncode}"]
        return said[-1].strip()
    return lines


def questions(
    recorded: Recorded, others: Collection[str] = (), reading: Mapping[str, Collection[str]] = _NOTHING
) -> str:
    """The standard input of look.sh; the checksum of the artifacts `others` is not asked for."""
    return "".join(f"{line}\n" for line in (*_questions(recorded, others), *members_questions(reading)))


def members_questions(reading: Mapping[str, Collection[str]]) -> list[str]:
    """The lines that ask what members of archives are."""
    return [f"members {path} {' '.join(names)}" for path, names in reading.items()]


def _questions(recorded: Recorded, others: Collection[str]) -> Iterator[str]:
    yield from (f"{'path' if each.content is None else 'hash'} {path}" for path, each in recorded.files.items())
    yield from (f"link {path}" for path in recorded.programs)
    # An archive has several members.
    sources = dict.fromkeys(program.source(path) for path, program in recorded.programs.items())
    yield from (f"{'path' if source in others else 'hash'} {source}" for source in sources)
    yield from (f"hash {each.target}" for each in recorded.programs.values() if each.is_packed)
    yield from (f"link {path}" for path in recorded.links)
    for name, unit in recorded.units.items():
        yield f"unit {name} {unit.step_name if unit.by_step else ''}"
        # As the step has them: the unit file and its programs are found by the library's function.
        yield f"watches {name} {' '.join(unit.watches)}"
        yield f"rereads {name} {' '.join(unit.reloads_on)}"
        yield from (f"triggers {each}" for each in unit.triggers)
        if not unit.by_step:
            yield f"due {name} {unit.step_name}"
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
    found = [re.search(rf"^{name}\(\) {{$.*?^}}$", library, re.M | re.S) for name in _FUNCTIONS]
    return [each[0] for each in found if each]


def parse(lines: list[str]) -> Found:
    """What look.sh has printed."""
    found = Found()
    hashes, unit = {}, UnitState()
    for line in lines:
        match line.split("\t"):
            case ["path", path, kind, mode, user, group, changed, same]:
                entry = Entry(kind=kind, mode=mode, user=user, group=group, changed=float(changed), same=same)
                found.files[path] = entry
            case ["hash", path, sha256]:
                hashes[path] = sha256
            case ["link", path, target]:
                found.links[path] = target
            case ["packed", path, member, sha256]:
                found.packed[path, member] = sha256
            case ["unit"] | ["unit", ""]:
                unit = UnitState()
            case ["unit", name, value]:
                unit.properties[name] = value
                if name == "Id":
                    found.units[value] = unit
            case ["enabled", name, state] if name in found.units:
                found.units[name].enabled = state
            case ["started", name, same] if name in found.units:
                found.units[name].same_as_started = same == "yes"
            case ["noted", path, time] if (name := Path(path).name.removesuffix(".read")) in found.units:
                found.units[name].started = max(found.units[name].started, float(time))
            case ["due", name] if name in found.units:
                found.units[name].due = True
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
    found.files = {path: replace(entry, sha256=hashes.get(path, "")) for path, entry in found.files.items()}
    return found


def _seconds(timestamp: str) -> float:
    try:
        return datetime.strptime(timestamp, "%a %Y-%m-%d %H:%M:%S.%f UTC").replace(tzinfo=UTC).timestamp()
    except ValueError:
        # Empty: it never happened.
        return 0
