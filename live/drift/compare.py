"""What differs between the state and a machine: a pure comparison of two records."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from config.machine_paths import HOST_TABLE, HOSTS_UNIT, MASQUERADE, POD_NETWORK_UNIT, POD_ROUTES
from live.drift.look import (
    HOST_MARK,
    Entry,
    Found,
    UnitState,
    text_of,
)
from live.drift.recorded import ARTIFACTS, File, Program, Recorded, Unit

Problems = Mapping[str, str]
"""What differs, by a word for programs (content, mode, missing ...) -> in words for a person, without secrets."""
_RELOAD_SECONDS = 5
"""A program may tell systemd that it has reloaded after `systemctl reload` has ended, and the step has noted it."""
API = "API"
"""The machine of what is in the API."""
Row = tuple[str, str, Problems, str]
"""Kind, name, what differs, and the resource of the step."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not as the state says.

    Args:
        machine: its name; of an object of the API "API".
        kind: file, program, link, unit, package, sysctl, module, user, host name, swap, host table, route, rules,
            object, node, container.
        name: a path, or a name.
        problems: what differs.
        step: the resource of the step that puts it there; empty where no step does.
    """

    machine: str
    kind: str
    name: str
    problems: Problems
    step: str = ""


def compare(recorded: Recorded, found: Found) -> list[Difference]:
    """All differences of one machine, files before units."""
    return [
        Difference(machine=recorded.name, kind=kind, name=name, problems=problems, step=step)
        for kind, name, problems, step in rows(recorded, found)
        if problems
    ]


def rows(recorded: Recorded, found: Found) -> Iterator[Row]:
    """Kind, name, problems and step of all that the record has, also where nothing differs."""
    files = {path: file_problems(file, found.files.get(path)) for path, file in recorded.files.items()}
    programs = {path: _program_problems(path, program, found) for path, program in recorded.programs.items()}
    yield from (("file", path, files[path], file.step) for path, file in recorded.files.items())
    yield from (("program", path, programs[path], program.step) for path, program in recorded.programs.items())
    for path, link in recorded.links.items():
        yield "link", path, _link_problems(link.value, found.links.get(path)), link.step
    wrong = {path for path, problems in (files | programs).items() if problems}
    for name, unit in recorded.units.items():
        yield "unit", name, unit_problems(unit, found.units.get(name), found, wrong), unit.step
    for kind in ("package", "sysctl", "module", "user"):
        for name, setting in getattr(recorded, f"{kind}s").items():
            value = found.values.get((kind, name))
            if value is None:
                yield kind, name, {"missing": "missing"}, setting.step
            elif value != setting.value:
                yield kind, name, {"value": f"{value}, expected {setting.value}"}, setting.step
    if recorded.host_name and found.host_name != recorded.host_name.value:
        wanted = recorded.host_name
        yield "host name", wanted.value, {"value": f"{found.host_name}, expected {wanted.value}"}, wanted.step
    if recorded.no_swap:
        yield from (("swap", device, {"value": "in use"}, recorded.no_swap.step) for device in found.swap)
    yield from _host_table(recorded, found)
    yield from _routes(recorded, found, wrong)


def file_problems(file: File, entry: Entry | None) -> Problems:
    """What is wrong with a file or a directory."""
    kind = "directory" if file.content is None else "regular file"
    if entry is None:
        return {"missing": "missing"}
    # An empty file has a name of its own.
    if entry.kind.replace("regular empty file", "regular file") != kind:
        return {"kind": f"{entry.kind}, expected {kind}"}
    problems = {}
    if file.content is not None and entry.sha256 != file.sha256:
        problems["content"] = "content differs"
    if entry.mode != file.mode:
        problems["mode"] = f"mode {entry.mode}, expected {file.mode}"
    if (entry.user, entry.group) != (file.owner, file.owner):
        problems["owner"] = f"owner {entry.user}:{entry.group}, expected {file.owner}:{file.owner}"
    return problems


def _link_problems(wanted: str, target: str | None) -> Problems:
    if target is None:
        return {"missing": "missing"}
    if not target:
        return {"kind": "no symbolic link"}
    head, star, tail = wanted.partition("*")
    same = target.startswith(head) and target.endswith(tail) if star else target == wanted
    return {} if same else {"target": f"leads to {target}, expected {wanted}"}


def _program_problems(path: str, program: Program, found: Found) -> Problems:
    if problems := _link_problems(program.target, found.links.get(path)):
        return problems
    source = program.source(path)
    entry = found.files.get(source)
    if entry is None:
        return {"artifact": f"{source} is missing"}
    # A published checksum is the name of the directory that it was downloaded to.
    wanted = program.sha256 or found.links[path].removeprefix(f"{ARTIFACTS}/").partition("/")[0]
    if entry.sha256 is not None and entry.sha256 != wanted:
        return {"artifact": f"{source} has another checksum than the release"}
    return _member_problems(program, found) if program.is_packed else {}


def _member_problems(program: Program, found: Found) -> Problems:
    unpacked, wanted = found.files.get(program.target), found.members.get(program.target)
    if unpacked is None:
        return {"content": f"{program.target} is missing"}
    if wanted is None:
        return {"archive": f"no machine can read {program.member} in {program.archive}"}
    return {} if unpacked.sha256 == wanted else {"content": f"{program.target} is not as in its archive"}


def unit_problems(unit: Unit, state: UnitState | None, found: Found, wrong: Collection[str]) -> Problems:
    """What is wrong with a unit.

    Args:
        unit: as the state says.
        state: as it is.
        found: all that the machine has.
        wrong: paths that differ themselves: that a unit reads them is not said again.
    """
    known = state.properties if state else {}
    if state is None or known.get("LoadState") != "loaded":
        load = known.get("LoadState", "not-found")
        return {load: {"not-found": "missing"}.get(load, load)}
    problems = {}
    if state.due:
        problems["stale"] = "a repair was interrupted before it restarted this unit"
    if known.get("ActiveState") != "active":
        problems["stopped"] = f"does not run ({known.get('ActiveState')})"
    # Without its file a unit is not enabled, nor is one whose file is a link: the file is named.
    if unit.enabled and state.enabled != "enabled" and all(_is_in_place(path, found) for path in unit.own):
        problems["disabled"] = f"not enabled ({state.enabled or 'no unit file'})"
    if not problems and not unit.reads.intersection(wrong):
        changed = max((found.files[path].changed for path in unit.reads if path in found.files), default=0.0)
        noted = state.started + (_RELOAD_SECONDS if unit.reloads_on else 0)
        triggered = [found.units.get(name, UnitState()).properties for name in unit.triggers]
        if known.get("NeedDaemonReload") == "yes":
            problems["stale"] = "systemd has not read its file since that changed"
        elif any(each.get("LoadState") != "loaded" or each.get("NeedDaemonReload") == "yes" for each in triggered):
            problems["stale"] = f"systemd has not read {', '.join(unit.triggers)} since that changed"
        elif state.same_as_started is False:
            problems["stale"] = "was started from other files than those on disk"
        elif state.same_as_started and changed > state.changed(reloads=bool(unit.reloads_on)) > noted:
            problems["stale"] = "its files have changed on disk since it was started"
    return problems


def _is_in_place(path: str, found: Found) -> bool:
    return path in found.links or (path in found.files and found.files[path].kind.startswith("regular"))


def _host_table(recorded: Recorded, found: Found) -> Iterator[Row]:
    if HOSTS_UNIT not in recorded.units:
        return
    wanted = text_of(recorded, HOST_TABLE).splitlines()
    problems = [f"without {line!r}" for line in wanted if line not in found.hosts]
    problems += [f"with {line!r}" for line in found.hosts if line not in wanted]
    said = {"block": f"block {HOST_MARK}: {', '.join(problems)}"} if problems else {}
    yield "host table", "/etc/hosts", said, recorded.units[HOSTS_UNIT].step


def _routes(recorded: Recorded, found: Found, wrong: Collection[str]) -> Iterator[Row]:
    if POD_NETWORK_UNIT not in recorded.units:
        return
    step = recorded.units[POD_NETWORK_UNIT].step
    lines = [line for line in text_of(recorded, POD_ROUTES).splitlines() if line]
    wanted = dict(_route(line.removeprefix("route replace ")) for line in lines)
    there = dict(_route(line) for line in found.routes)
    for pods, hop in wanted.items():
        if pods not in there:
            yield "route", pods, {"missing": f"missing, expected via {hop}"}, step
        elif there[pods] != hop:
            yield "route", pods, {"value": f"via {there[pods]}, expected via {hop}"}, step
    for pods in there.keys() - wanted.keys():
        yield "route", pods, {"extra": "has the lab's mark, and is not the lab's"}, step
    # What the kernel has is compared with the file on the machine.
    if MASQUERADE in recorded.files and MASQUERADE not in wrong and found.same_table is False:
        yield "rules", "table ip hardway", {"content": f"not as in {MASQUERADE}"}, step


def _route(line: str) -> tuple[str, str]:
    """Pods and next hop, of "PODS via HOP ..."."""
    words = line.split()
    return words[0], words[words.index("via") + 1] if "via" in words else ""
