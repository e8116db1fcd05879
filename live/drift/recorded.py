"""What the state says is on each machine: read from the scripts of the steps, which the state has as their input.

A step's script names every file with its content, mode and owner, every unit, program, package and setting, one verb a
line (components/step.sh has the verbs). Secret content stands behind the script. Nothing is asked of a machine here.
Lines that are no such verb (a script's own commands) say nothing about what stays on the machine, and are skipped.
"""

import base64
import gzip
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from config.recorded_state import SECRET_KEY

LIBRARY = "/usr/local/lib/hardway/step.sh"
THERE = "there"
"""The value of what has none: a user, a kernel module."""
USED_ONCE = frozenset({"/etc/hardway/join-token", "/etc/hardway/discovery.conf", "/etc/hardway/admission-token"})
"""What kubeadm's steps remove again once a machine has joined."""
_UNITS = "/etc/systemd/system"
ARTIFACTS = "/var/lib/hardway/artifacts"
_BRINGS = f"install -D -m 0644 /dev/stdin {LIBRARY}"
_MACHINE_LABEL, _NODE_LABEL = "hardway/machine", "hardway/worker"
_OPENING, _CLOSING = "{\n", "}; exit #"
_HEREDOC = re.compile(r"<<'([\w-]+)'$")
_TITLE = re.compile(r"# (\S+) on (\S+) \(")
_APPLIES = re.compile(r"apply --server-side --force-conflicts -f (/[^\s']+)")
_PATCHES = re.compile(r"patch node/(\S+) -p (.+)$")
_EXEC = re.compile(r"^ExecStart=-?(\S+)", re.M)


@dataclass(frozen=True, kw_only=True)
class File:
    """A file, or a directory, as a step makes it.

    Args:
        step: the step's resource.
        content: None for a directory, whose content is not the step's.
        mode: octal digits, as `stat` prints them.
        owner: user and group of this one name.
        secret: whether the content must not be shown.
    """

    step: str
    content: bytes | None
    mode: str
    owner: str
    secret: bool = False

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content or b"").hexdigest()


@dataclass(frozen=True, kw_only=True)
class Program:
    """A symbolic link to an artifact, or to a member of an archive.

    Args:
        step: the step's resource.
        target: what the link leads to.
        archive: the artifact as a file, where the program is a member.
        sha256: of the artifact; None where the publisher's checksum is used, which is not in the state.
        mirrored: whether the artifact is in the mirror, and not downloaded by the machine.
        member: inside the archive.
    """

    step: str
    target: str
    sha256: str | None
    archive: str | None = None
    member: str | None = None
    mirrored: bool = False

    @property
    def is_packed(self) -> bool:
        """Whether it is a member of an archive of a known checksum: it can be compared with that."""
        return self.archive is not None and self.sha256 is not None

    def source(self, path: str) -> str:
        """Where the artifact is; by the link `path` where the name of its directory is not known before."""
        return self.archive or (path if self.sha256 is None else self.target)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit that is to run.

    Args:
        step: the step's resource.
        step_name: the step's name on the machine.
        own: its unit file and the links to its programs, where a step makes them.
        watches, reloads_on: paths of files that it reads when it starts, and on reload.
        enabled: whether it has a section [Install].
        by_step: whether the step starts it, and notes what it was started from; another program does it otherwise.
    """

    step: str
    step_name: str
    own: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()
    reloads_on: tuple[str, ...] = ()
    enabled: bool = True
    by_step: bool = True

    @property
    def reads(self) -> frozenset[str]:
        """All paths that it was started from."""
        return frozenset((*self.own, *self.watches, *self.reloads_on))

    @property
    def triggers(self) -> list[str]:
        """The units that it starts, as a timer does: systemd reads their files with its own."""
        return [path.removeprefix(f"{_UNITS}/") for path in self.watches if path.rpartition("/")[0] == _UNITS]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value with a name: a kernel setting, a package, a module, a user, a link, the host's name.

    Args:
        step: the step's resource.
        value: what it is to be.
    """

    step: str
    value: str


@dataclass(kw_only=True)
class Recorded:
    """What the state says of one machine; everything by its name or path."""

    name: str
    library: str = ""
    files: dict[str, File] = field(default_factory=dict)
    programs: dict[str, Program] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    links: dict[str, Setting] = field(default_factory=dict)
    packages: dict[str, Setting] = field(default_factory=dict)
    sysctls: dict[str, Setting] = field(default_factory=dict)
    modules: dict[str, Setting] = field(default_factory=dict)
    users: dict[str, Setting] = field(default_factory=dict)
    host_name: Setting | None = None
    no_swap: Setting | None = None
    objects: dict[str, Setting] = field(default_factory=dict)
    """Path of a file with objects of the API -> its content."""
    nodes: dict[str, Setting] = field(default_factory=dict)
    """Name of a Node -> what it is patched with, JSON."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step, as `repair` runs it again.

    Args:
        urn: of its resource.
        machine: the name of its machine.
        name: the step's own, on its machine.
        script: what bash reads, secrets included.
    """

    urn: str
    machine: str
    name: str
    script: str = field(repr=False)


def steps(deployment: Mapping[str, Any]) -> list[Step]:
    """The steps in the state, in an order in which they work.

    Args:
        deployment: what `pulumi stack export --show-secrets` prints.
    """
    found = []
    for resource in deployment.get("deployment", {}).get("resources", []):
        if resource["type"] != "command:remote:Command" or resource.get("delete"):
            continue
        sent = plain(resource.get("inputs", {}).get("stdin"))
        title = _TITLE.match(sent.removeprefix(_OPENING)) if sent.startswith(_OPENING) else None
        if title:
            found.append(Step(urn=resource["urn"], machine=title[2], name=title[1], script=sent))
    return found


def read(found: list[Step]) -> dict[str, Recorded]:
    """Machine -> what its steps put there."""
    machines: dict[str, Recorded] = {}
    for step in found:
        _read_step(step, machines.setdefault(step.machine, Recorded(name=step.machine)))
    return machines


def plain(value: Any) -> str:
    """The text of a property in a state with its secrets in clear; empty where it is no text."""
    if isinstance(value, dict) and SECRET_KEY in value:
        value = json.loads(value["plaintext"])
    return value if isinstance(value, str) else ""


def _read_step(step: Step, machine: Recorded) -> None:
    script, _, more = step.script.removeprefix(_OPENING).partition(f"\n{_CLOSING}")
    more = more.partition("\n")[2]
    secrets = {}
    if _BRINGS in script:
        content = gzip.decompress(base64.b64decode(more))
        machine.library = content.decode()
        machine.files[LIBRARY] = File(step=step.urn, content=content, mode="644", owner="root")
    else:
        secrets = {
            path: base64.b64decode(rest) for path, _, rest in (line.partition(" ") for line in more.splitlines())
        }
    for line, document in _statements(script):
        _read_line(step, machine, line, document, secrets)
    for path in USED_ONCE:
        machine.files.pop(path, None)


def _statements(script: str) -> Iterator[tuple[str, str]]:
    """Each line with the document behind it, `<<'END'`, if it has one."""
    lines = iter(script.splitlines())
    for line in lines:
        document = []
        if here := _HEREDOC.search(line):
            for each in lines:
                if each == here[1]:
                    break
                document.append(each)
        yield line, "".join(f"{each}\n" for each in document)


def _read_line(step: Step, machine: Recorded, line: str, document: str, secrets: Mapping[str, bytes]) -> None:
    urn = step.urn
    if applies := _APPLIES.search(line):
        content = machine.files[applies[1]].content if applies[1] in machine.files else None
        machine.objects[applies[1]] = Setting(step=urn, value=(content or b"").decode())
        return
    try:
        words = shlex.split(_HEREDOC.sub("", line))
    except ValueError:
        # A line of a command that goes on in the next one.
        return
    match words:
        case ["file", path, mode, owner]:
            machine.files[path] = File(step=urn, content=document.encode(), mode=mode.lstrip("0"), owner=owner)
        case ["secret", path, mode, owner]:
            content_of = secrets.get(path, b"")
            machine.files[path] = File(step=urn, content=content_of, mode=mode.lstrip("0"), owner=owner, secret=True)
        case ["install", "-d", "-m", mode, path]:
            machine.files[path] = File(step=urn, content=None, mode=mode.lstrip("0"), owner="root")
        case ["install", "-d", "-m", mode, "-o", owner, "-g", _, path]:
            machine.files[path] = File(step=urn, content=None, mode=mode.lstrip("0"), owner=owner)
        case ["fetch", url, sha256, destination, *members]:
            machine.programs |= _programs(urn, url, sha256, destination, members)
        case ["unit", name, *paths]:
            machine.units[name] = _unit(step, machine, name, paths)
        case ["reloads", name, *paths] if name in machine.units:
            before = machine.units[name]
            machine.units[name] = Unit(**{**vars(before), "reloads_on": tuple(paths)})
        case ["own", "unit", name]:
            made = [
                path for path in machine.files if path == f"{_UNITS}/{name}" or path.startswith(f"{_UNITS}/{name}.d/")
            ]
            own = [*made, *(each for path in made for each in _programs_of(machine, path))]
            machine.units[name] = Unit(step=urn, step_name=step.name, own=tuple(own), by_step=False)
        case ["ln", "-sfn", target, path]:
            machine.links[path] = Setting(step=urn, value=target)
        case ["packages", *names]:
            machine.packages |= dict.fromkeys(names, Setting(step=urn, value="installed"))
        case ["sysctls", *settings]:
            for name, _, value in (setting.partition("=") for setting in settings):
                machine.sysctls[name] = Setting(step=urn, value=value)
        case ["modules", *names]:
            machine.modules |= dict.fromkeys(names, Setting(step=urn, value=THERE))
        case ["user", name, _]:
            machine.users[name] = Setting(step=urn, value=THERE)
        case ["host_name", name]:
            machine.host_name = Setting(step=urn, value=name)
        case ["no_swap"]:
            machine.no_swap = Setting(step=urn, value="off")
        case ["admit", *_]:
            # Without a step: live/drift/nodes.py repairs them.
            for node, label, pods in (row.split() for row in document.splitlines()):
                labels = {_MACHINE_LABEL: label, _NODE_LABEL: ""}
                patch = {"metadata": {"labels": labels}, "spec": {"podCIDR": pods, "podCIDRs": [pods]}}
                machine.nodes[node] = Setting(step="", value=json.dumps(patch))
        case ["wait_for", _, _, command] if found := _PATCHES.search(command):
            machine.nodes[found[1]] = Setting(step=urn, value=shlex.split(found[2])[0])


def _programs(step: str, url: str, sha256: str, destination: str, members: list[str]) -> dict[str, Program]:
    known = None if sha256 == "published" else sha256
    mirrored = url.startswith("file://")
    kept = f"{ARTIFACTS}/{known or '*'}"
    source = url.removeprefix("file://") if mirrored else f"{kept}/{url.rpartition('/')[2]}"
    if not members:
        return {destination: Program(step=step, target=source, sha256=known, mirrored=mirrored)}
    return {
        f"{destination}/{member.rpartition('/')[2]}": Program(
            step=step,
            target=f"{kept}/unpacked/{member}",
            sha256=known,
            archive=source,
            member=member,
            mirrored=mirrored,
        )
        for member in members
    }


def _programs_of(machine: Recorded, unit_file: str) -> list[str]:
    """The links to artifacts that a unit's file starts."""
    file = machine.files.get(unit_file)
    text = file.content.decode() if file and file.content else ""
    return [path for path in _EXEC.findall(text) if path in machine.programs]


def _unit(step: Step, machine: Recorded, name: str, paths: list[str]) -> Unit:
    own = machine.files.get(f"{_UNITS}/{name}")
    # A unit that a package brings can be enabled.
    text = own.content.decode() if own and own.content else "[Install]"
    programs = _programs_of(machine, f"{_UNITS}/{name}")
    unit_file = [f"{_UNITS}/{name}"] if own else []
    return Unit(
        step=step.urn,
        step_name=step.name,
        own=(*unit_file, *programs),
        watches=tuple(paths),
        enabled="[Install]" in text,
    )
